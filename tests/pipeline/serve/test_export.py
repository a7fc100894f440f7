"""An export that is served answers in its own runtime."""

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from headstart.pipeline.places import Places
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.serve.app import make_app
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.of_export import is_export, serve_export
from headstart.pipeline.serve.service import Service
from headstart.tests.pipeline.export.conftest import run_in_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from headstart.pipeline.export.config import ModelExportConfig
    from headstart.pipeline.export.export import export

    out = tmp_path_factory.mktemp("export") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        export(trained_run, out, ModelExportConfig(format="saved_model", images=4))
    return out


def test_answers_are_those_of_the_run(exported: Path, trained_run: Path, drawn: Path, headstart) -> None:
    assert is_export(exported)
    assert not is_export(trained_run)
    files = sorted((drawn / "dog").glob("dog.*.jpg"))[:10]
    config = ServeConfig(abstain=0.6)
    service = Service(serve_export(exported, config, Places()), config)
    with TestClient(make_app(service, "it", ["localhost"]), "http://localhost") as client:
        answers = client.post("/predict", files=[("files", file.read_bytes()) for file in files]).json()["answers"]
        broken = (drawn / "dog" / "broken.tail.jpg").read_bytes()
        response = client.post("/predict", files={"files": broken})
        assert (response.status_code, response.json()["answers"][0]["rejected"]) == (422, "truncated")
    service.close()
    expected = predict(trained_run, files, PredictConfig(abstain=0.6)).predictions
    for one, other in zip(answers, expected, strict=True):
        assert one["label"] == other.label
        assert one["probability"] == pytest.approx(other.probability, abs=1e-4)
        assert (one["unsure"], one["unlike"]) == (other.unsure, None)


def test_errors(exported: Path, headstart, tmp_path: Path) -> None:
    assert "--model, --store" in headstart.error("serve", exported, "--port=0", "--model=head", code=2)
    damaged = tmp_path / "damaged"
    shutil.copytree(exported, damaged)
    (damaged / "labels.json").write_text("{}")
    assert "labels.json: is damaged" in headstart.error("serve", damaged, "--port=0")
