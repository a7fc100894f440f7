"""A run that is served answers as `predict` does, with the nearest training images beside."""

import io
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from headstart.features.images.faults import Fault
from headstart.features.images.formats import Header
from headstart.features.images.pixels import ImageConfig
from headstart.pipeline.places import NetworkPlaces, Places
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run
from headstart.pipeline.serve.app import make_app
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.nearest import nearest_of
from headstart.pipeline.serve.served import pixels_of, serve_run, usable_header
from headstart.pipeline.serve.service import Service
from headstart.tests.features.images.pictures import chunk, png, ramp
from PIL import Image, ImageFile


@pytest.mark.parametrize("kind", ["dark", "turned"])
def test_no_pixels_are_decoded_to_read_a_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grey, exif = ramp(48), Image.Exif()
    exif[0x0112] = 3  # upside down
    dark, plain = (png(np.stack([one] * 3, axis=-1)) for one in (grey.astype(np.uint16) << 4, grey))
    turned = plain[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:]  # as is said only behind the pixels
    data, wanted = {"dark": (dark, grey), "turned": (turned, grey[:, ::-1])}[kind]
    decoded: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: [decoded.append(image), load(image)][1])
    header = usable_header(data, "a.png", 10**6)
    assert isinstance(header, Header)
    assert not decoded
    found = pixels_of(data, "a.png", header, [ImageConfig(48)])
    assert not isinstance(found, Fault)
    assert np.abs(found[0][..., 0].astype(int) - wanted).max() <= 1


@contextmanager
def client_of(run: Path, places: Places = Places(), **settings: object) -> Iterator[TestClient]:
    config = ServeConfig(**settings)  # type: ignore[arg-type]
    served = serve_run(Run.open(run), config, places, 0)
    service = Service(served, config, nearest_of(served, places))
    with TestClient(make_app(service, "it", ["localhost"]), "http://localhost") as client:
        yield client
    service.close()


def awkward(drawn: Path, folder: Path) -> list[Path]:
    """The same photograph in several formats, turned, large, and with transparency."""
    folder.mkdir()
    with Image.open(drawn / "cat" / "cat.0.jpg") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "turned.jpg", exif=exif, quality=90)
        image.resize((900, 700)).save(folder / "large.jpg", progressive=True)
        image.convert("CMYK").save(folder / "cmyk.jpg")
        image.convert("L").save(folder / "grey.png")
        image.save(folder / "small.webp")
        image.save(folder / "page.tif")
        image.convert("RGBA").resize((64, 64)).rotate(20).save(folder / "clear.png")
    return sorted(folder.iterdir())


def require_alike(client: TestClient, run: Path, files: list[Path], **settings: object) -> None:
    """The answers are those of `predict`."""
    config, places = PredictConfig(**settings), NetworkPlaces(store=run / "none")  # type: ignore[arg-type]
    expected = predict(run, files, config, places).predictions
    sent = [("files", (file.name, file.read_bytes())) for file in files]
    found = client.post("/predict", files=sent).json()["answers"]
    for one, other in zip(found, expected, strict=True):
        assert one["file"] == Path(other.path).name
        assert one["label"] == other.label
        assert one["probability"] == pytest.approx(other.probability, abs=1e-6)
        assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-6)
        assert one["distance"] == pytest.approx(other.distance, abs=1e-5)
        assert (one["unlike"], one["unsure"]) == (other.unlike, bool(other.unsure))


def test_answers_are_those_of_predict(run: Path, drawn: Path, tmp_path: Path) -> None:
    photographs = sorted((drawn / "dog").glob("dog.*.jpg"))[:10]
    with client_of(run, abstain=0.6) as client:
        require_alike(client, run, [*photographs, *awkward(drawn, tmp_path / "awkward")], abstain=0.6)
    with client_of(run, threshold=0.2) as client:
        require_alike(client, run, photographs, threshold=0.2)
        assert client.get("/labels").json()["threshold"]["value"] == 0.2
        broken = drawn / "dog" / "broken.tail.jpg"
        assert "truncated" in client.post("/predict", files={"files": broken.read_bytes()}).json()["error"]


@pytest.mark.slow
def test_answers_of_a_fine_tuned_classifier(tiny_tuned_run: Path, drawn: Path, tmp_path: Path) -> None:
    photographs = sorted((drawn / "dog").glob("dog.*.jpg"))[:10]
    with client_of(tiny_tuned_run, model="finetuned") as client:
        require_alike(client, tiny_tuned_run, photographs, model="finetuned")
        files = {"files": photographs[0].read_bytes()}
        assert len(client.post("/predict?nearest=4", files=files).json()["answers"][0]["nearest"]) == 4


def nearest(client: TestClient, file: Path) -> list[dict[str, object]]:
    answer = client.post("/predict?nearest=3", files={"files": file.read_bytes()}).json()["answers"][0]
    found: list[dict[str, object]] = answer.get("nearest", [])
    return found


def test_nearest_training_images(run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained = sorted((prepared / "train" / "cat").glob("cat.*.jpg"))[1]
    with client_of(run) as client:
        found = nearest(client, trained)
        assert len(found) == 3
        assert found[0]["label"] == "cat"
        assert found[0]["distance"] == pytest.approx(0, abs=1e-3)  # the image itself
        response = client.get(f"/{found[0]['image']}")
        assert response.headers["Content-Type"] == "image/jpeg"
        with Image.open(io.BytesIO(response.content)) as small, Image.open(trained) as large:
            assert small.width / small.height == pytest.approx(large.width / large.height, rel=0.05)
        assert client.get(f"/training/{'0' * 64}.jpg").status_code == 404
        assert "nearest" not in client.post("/predict", files={"files": trained.read_bytes()}).json()["answers"][0]
    moved = tmp_path / "moved"
    shutil.copytree(prepared, moved)
    examples = (run / "examples.csv").read_text()
    (run / "examples.csv").write_text(examples.replace(str(prepared), "/gone"))
    with client_of(run, Places(data=moved)) as client:
        assert [one["distance"] for one in nearest(client, trained)] == [one["distance"] for one in found]
        for file in moved.rglob("*.jpg"):
            file.write_bytes(file.read_bytes() + b"other")
        assert client.get(f"/{found[1]['image']}").status_code == 404
    with client_of(run, Places(data=moved)) as client:
        assert nearest(client, trained) == []
        assert "shows no nearest training images" in capsys.readouterr().err


def test_images_of_another_order_are_not_shown(run: Path, prepared: Path) -> None:
    head, *rows = (run / "examples.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    first, second = ([one for one in cells if one[3] == "train" and one[2] == label] for label in ("cat", "dog"))
    for one, other in zip(first, second, strict=False):
        one[:2], other[:2] = other[:2], one[:2]
    (run / "examples.csv").write_text("\n".join([head, *map(",".join, cells)]) + "\n")
    with client_of(run) as client:
        assert nearest(client, sorted((prepared / "train" / "cat").glob("cat.*.jpg"))[1]) == []


def test_errors_before_it_serves(headstart, run: Path, tmp_path: Path) -> None:
    assert "not a run folder" in headstart.error("serve", tmp_path)
    assert "--host nowhere.invalid: " in headstart.error("serve", run, "--host=nowhere.invalid", code=2)
    assert "--host 203.0.113.1: " in headstart.error("serve", run, "--host=203.0.113.1", code=2)
    assert "--port must be" in headstart.error("serve", run, "--port=70000", code=2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port}: is in use on 127.0.0.1" in headstart.error("serve", run, f"--port={port}")
    config = json.loads((run / "config.json").read_text())
    config["features"]["weights_seed"] = 1
    (run / "config.json").write_text(json.dumps(config))
    assert "other weights" in headstart.error("serve", run, "--port=0")
