"""`headstart advise`: its candidates, its recommendation, and its JSON."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from headstart.features.config import ExtractionConfig
from headstart.pipeline.advise import prospect
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.scoring.simple_models import SimpleModels
from headstart.tests.conftest import SMALL_FLAGS, Cli

FIELDS = [
    "recommendation",
    "reason",
    "confidence",
    "candidates",
    "largest_class",
    "largest_class_share",
    "finetune",
    "similarity",
    "gain_of_doubling",
    "gain_of_doubling_interval",
    "images",
]


@pytest.fixture
def quick_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing the steps of fine-tuning takes seconds, and one test does it."""
    monkeypatch.setattr(prospect, "_speed", lambda *_: 10.0)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On so few images, no probe is surely better than the largest class."""
    monkeypatch.setattr(SimpleModels, "is_beaten_by", lambda *_: True)


def given(data: Path, extraction: ExtractionConfig) -> list[object]:
    return ["advise", data, f"--store={extraction.store}", "--max-rejects=1"]


def test_the_features_in_the_store_are_judged_on_train_and_val(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, quick_cost: None
) -> None:
    found = headstart(*given(prepared, extraction))
    assert list(found) == FIELDS
    splits = headstart("features", prepared, f"--store={extraction.store}", *SMALL_FLAGS, "--max-rejects=1")
    assert 0 < found["images"] < splits["examples"]
    (one,) = found["candidates"]
    assert found["recommendation"] == {
        "backbone": "mobilenet_v3_small",
        "cut": "top_activation",
        "finetune": False,
    }
    low, high = one["linear_probe_interval"]
    assert 0 < low < one["linear_probe"] < high <= 1
    assert low < found["largest_class_share"]
    assert (found["finetune"]["answer"], found["finetune"]["minutes"]) == ("unknown", None)
    assert (found["confidence"], found["similarity"]) == (0.0, None)
    assert "not surely better than always saying `" in found["reason"]


def test_fine_tuning_is_timed_where_it_may_help(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, quick_cost: None, trusted: None
) -> None:
    command = given(prepared, extraction)
    found = headstart(*command)
    assert (found["finetune"]["answer"], found["recommendation"]["finetune"]) == ("no", False)
    assert found["finetune"]["images_per_second"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prospect, "_HALF", 1)  # as if the images were many
        found = headstart(*command)
        text = headstart.text(*command)
    assert (found["finetune"]["answer"], found["recommendation"]["finetune"]) == ("yes", True)
    assert found["finetune"]["images_per_second"] == 10.0
    assert found["finetune"]["minutes"] < found["images"] * 10 / 10 / 60
    assert found["confidence"] == 1.0
    assert "--try NAME" in found["reason"]
    assert text.splitlines()[-1] == "next: headstart finetune RUN"


@pytest.mark.slow
def test_the_cost_of_fine_tuning_is_measured(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospect, "_HALF", 1)
    found = headstart(*given(prepared, extraction))["finetune"]
    assert found["images_per_second"] > 0.1
    assert 0 < found["minutes"] < 60


def test_labels_of_the_test_split_change_nothing(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path, quick_cost: None
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    (data / "test" / "cat").rename(data / "test" / "x")
    (data / "test" / "dog").rename(data / "test" / "cat")
    (data / "test" / "x").rename(data / "test" / "dog")
    before, after = (headstart(*given(one, extraction)) for one in (prepared, data))
    assert before == after


@pytest.mark.slow
def test_an_empty_store_is_filled_with_a_sample_at_several_cuts(
    headstart: Cli, prepared: Path, tmp_path: Path, quick_cost: None, trusted: None
) -> None:
    store = tmp_path / "new"
    command = ["advise", prepared, f"--store={store}", "--max-rejects=1", *SMALL_FLAGS]
    found = headstart(*command, "--sample=20")
    assert found["images"] == 20
    cuts = [one["cut"] for one in found["candidates"]]
    assert len(cuts) == 5
    assert "top_activation" in cuts
    best = max(one["linear_probe"] for one in found["candidates"])
    assert found["candidates"][0]["linear_probe"] <= best
    again = headstart("store", "ls", store)["fingerprints"]
    assert {one["images"] for one in again} == {20}
    text = headstart.text(*command, "--sample=20")
    assert "next: headstart head" in text
    assert "--backbone=mobilenet_v3_small --weights=random --precision=float32 --image-size=64 --cut=" in text


@pytest.mark.slow
def test_a_network_is_tried_beside_those_in_the_store(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, quick_cost: None
) -> None:
    more = ("--try=mobilenet_v3_small", "--cut=expanded_conv_10_add", *SMALL_FLAGS)
    found = headstart(*given(prepared, extraction), *more)
    assert {one["cut"] for one in found["candidates"]} == {"top_activation", "expanded_conv_10_add"}
    assert sum(one["fingerprint"] == found["candidates"][0]["fingerprint"] for one in found["candidates"]) == 1


@pytest.mark.slow
def test_features_of_few_images_are_left_out_and_told(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path, quick_cost: None, trusted: None
) -> None:
    few = tmp_path / "few"
    for label in ("cat", "dog"):
        (few / label).mkdir(parents=True)
        for file in sorted(prepared.glob(f"train/{label}/{label}.*.jpg"))[:4]:
            shutil.copy(file, few / label)
    cut = "--cut=expanded_conv_10_add"
    headstart("features", few, f"--store={extraction.store}", *SMALL_FLAGS, cut)
    text = headstart.text(*given(prepared, extraction))
    assert "mobilenet_v3_small-expanded_conv_10_add" in text
    assert "has features of 8 of" in text
    line = next(line for line in text.splitlines() if line.startswith("next: headstart head"))
    options = shlex.split(line)[6:]
    assert "--max-rejects=1" not in options
    assert headstart("features", prepared, *options, "--max-rejects=1")["extracted"] == 0


def test_without_the_weights_the_cost_is_unknown(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospect, "_HALF", 1)
    (extraction.store / "used.json").unlink()
    shutil.rmtree(extraction.store / "frozen", ignore_errors=True)
    code, out, told = headstart.whole(*given(prepared, extraction))
    found = json.loads(out)
    assert code == 0
    assert (found["finetune"]["minutes"], found["recommendation"]["backbone"]) == (None, "mobilenet_v3_small")
    assert "the cost of fine-tuning is unknown" in told


@pytest.mark.parametrize(
    ("more", "said", "code"),
    [
        (["--sample=5"], "--sample must be at least 20, or 0", 2),
        (["--try=mobilnet"], "did you mean mobilenet", 2),
        (["--cut=top_activation:map", *SMALL_FLAGS], "a head takes features averaged", 2),
        (["--backbone=mobilenet+mobilenet_v2"], "--backbone mobilenet+mobilenet_v2: networks are judged one by one", 2),
        (["--try=mobilenet+mobilenet_v2"], "--try: names one network; repeat it for more", 2),
    ],
)
def test_wrong_options(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, more: list[str], said: str, code: int
) -> None:
    assert said in headstart.error(*given(prepared, extraction), *more, code=code)


def test_data_of_one_class_is_refused(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    shutil.copy(next(prepared.glob("train/cat/cat.*.jpg")), tmp_path / "data" / "cat")
    assert "one class only" in headstart.error(*given(tmp_path / "data", extraction))


def test_the_cost_is_of_the_default_epochs() -> None:
    assert FinetuneConfig().epochs == prospect.EPOCHS


def test_a_gain_that_is_small_against_its_upper_end_is_a_perhaps() -> None:
    assert [prospect.answered(*gains) for gains in ((0.005, 0.05), (0.0098, 0.105), (0.019, 0.099), (0.04, 0.08))] == [
        "no", "perhaps", "perhaps", "yes",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_cut_without_effect_is_told(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, quick_cost: None
) -> None:
    cut = (*SMALL_FLAGS, "--cut=expanded_conv_10_add")
    assert "--cut has no effect" in headstart.text(*given(prepared, extraction), *cut)
    told = headstart.text(*given(prepared, extraction), *cut, "--try=mobilenet_v3_small")
    assert "no effect" not in told


def test_more_is_expected_of_more_errors_and_images_and_of_specialised_features() -> None:
    def gain(error: float, images: int, too_deep: float = 0.0) -> float:
        expected, most = prospect.expected_gain(error, images, None, too_deep)
        assert 0 <= expected <= most <= error
        return expected

    assert gain(0.2, 500) > gain(0.1, 500) > gain(0.1, 100) > gain(0.0, 100) == 0
    assert gain(0.1, 500, too_deep=0.05) > gain(0.1, 500)
