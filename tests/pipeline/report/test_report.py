import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.places import Places
from headstart.pipeline.report.config import ReportConfig
from headstart.pipeline.report.evidence import gather
from headstart.pipeline.report.mistakes import gallery
from headstart.pipeline.report.report import report
from headstart.pipeline.runs import read_csv, write_csv
from headstart.tests.browser import require_opens
from headstart.tests.pipeline.report.pages import Page

HOSTILE = ("<img src=x onerror=alert(1)>", "'\" onload='alert(2)' \u202e&lt;script>")


def made_run(folder: Path, names: list[str], wrong: int = 3, units: int = 16, images: int = 60) -> Path:
    """A run whose data are gone: it was evaluated on test, and errs on the first examples."""
    folder.mkdir()
    (folder / "head.keras").touch()
    labels = [at % len(names) for at in range(images)]
    config = {
        "class_names": names, "seed": 0, "head": {"units": [units]}, "features": {"cut": ["x"], "store": str(folder)},
        "examples": {"train": f"{units:064}"}, "data": str(folder / "gone"), "weights_digest": "0" * 64,
        "fingerprints": {"x": "0" * 64},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(json.dumps({"head": {"best_epoch": 2, "val": {"accuracy": 0.9}}}))
    (folder / "history.csv").write_text(
        "phase,epoch,loss,accuracy,val_loss,val_accuracy\nhead,1,2,.5,2,.5\nhead,2,1,.6,1,.7\n"
    )
    units_of = names[1:] if len(names) == 2 else names
    with (folder / "examples.csv").open("w", newline="") as file:
        rows = [(f"{at}.jpg", at, names[label], "train") for at, label in enumerate(labels[:units])]
        csv.writer(file).writerows([("path", "digest", "label", "split"), *rows])
    with (folder / "predictions-test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "digest", "label", *(f"head:{name}" for name in units_of)])
        for at, label in enumerate(labels):
            answer = (label + 1) % len(names) if at < wrong else label
            logits = [3.0 * (answer == one) - (len(names) == 2 and answer == 0) for one in range(len(names))]
            writer.writerow([f"{HOSTILE[0]}{at}.jpg", at, names[label], *logits[-len(units_of) :]])
    return folder


@pytest.mark.slow
def test_a_run_is_evaluated_first_and_shown_with_its_mistakes(headstart, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    _, out, told = headstart.whole("report", run, "--output", file)
    assert told.count("read as split folders") == 1
    result = json.loads(out)
    assert result == {"report": str(file), "bytes": file.stat().st_size, "missing": []}
    assert (run / "predictions-test.csv").is_file()
    page = Page(file)
    page.require_safe()
    page.require_accessible()
    found = evaluate(run)
    assert f"right on {round(found.head['accuracy'] * found.n)} of {found.n} images of test" in page.text
    assert "Nothing was fine-tuned." in page.text
    assert "read as split folders" in page.text
    wrong = found.n - round(found.head["accuracy"] * found.n)
    assert wrong
    assert len(page.of("img")) == 5 * min(wrong, 12)  # each mistake beside four training images
    assert "images say little: `headstart evaluate" in page.text
    os.utime(run / "predictions-test.csv", (1, 1))
    headstart("report", run, "--output", file)  # again, over its own page, without evaluating again
    assert (run / "predictions-test.csv").stat().st_mtime == 1


@pytest.mark.slow
def test_a_study_is_a_section_and_the_kept_temperature_is_shown(headstart, run: Path, tmp_path: Path) -> None:
    plain, with_study = tmp_path / "plain.html", tmp_path / "study.html"
    headstart("report", run, "--output", plain)
    assert headstart("report", run, "--study", "--output", with_study)["missing"] == []
    page = Page(with_study)
    page.require_safe()
    page.require_accessible()
    assert "How many images" in page.text
    assert "How many images" not in Page(plain).text
    require_opens(with_study)
    kept = json.loads((run / "calibration.json").read_text())["head"]["temperature"]
    assert gather(run, "auto", Places()).temperatures == {"head": kept}


def test_neighbours_are_training_images_and_mistakes_are_sorted(run: Path) -> None:
    evidence = gather(run, "auto", Places())
    made = gallery(evidence)
    sure = evidence.chances("head").max(axis=1)[made.mistakes]
    assert list(sure) == sorted(sure, reverse=True)
    assert {one.split for near in made.neighbours.values() for one in near} == {"train"}
    assert list(made.neighbours) == made.mistakes[:12]


@pytest.mark.slow
def test_a_fine_tuned_run_shows_maps_and_changed_examples(tiny_tuned_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_tuned_run, run)
    metrics = json.loads((run / "metrics.json").read_text())
    gained = {"best_epoch": 1, "before": {"loss": 0.5, "accuracy": 0.5}, "val": {"loss": 0.25, "accuracy": 0.5}}
    (run / "metrics.json").write_text(json.dumps({**metrics, "finetune": {**metrics["finetune"], **gained}}))
    evaluate(run)
    file = run / "predictions-test.csv"
    rows = read_csv(file)
    right = [{"dog": 1, "cat": -1}[row["label"]] for row in rows]
    for at, row in enumerate(rows):  # the head errs on the first four, the classifier on two of these and the last
        row["head:dog"] = str(-right[at] if at < 4 else right[at])
        row["finetuned:dog"] = str(-2 * right[at] if at < 2 or at == len(rows) - 1 else right[at])
    write_csv(file, list(rows[0]), (list(row.values()) for row in rows))
    made = gallery(gather(run, "test", Places()))
    assert (made.evidence.answering, made.mended, made.spoiled) == ("finetuned", [2, 3], [len(rows) - 1])
    assert made.mistakes == [0, 1, len(rows) - 1]
    assert set(made.maps) == {rows[at]["digest"] for at in made.mistakes}
    report([run], ReportConfig(tmp_path / "x.html"))
    page = Page(tmp_path / "x.html")
    page.require_safe()
    page.require_accessible()
    assert "it mended 2 images and spoiled 1, which may be chance" in page.text
    assert len(page.of("img")) == 3 * (2 + 4) + 3
    require_opens(tmp_path / "x.html")


def test_the_map_follows_the_gradient_of_the_answer() -> None:
    import keras
    from headstart.pipeline.report.heat import _laid_over, _slopes

    head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    head.set_weights([np.array([[1.0], [-2.0], [0.5]], np.float32), np.zeros(1, np.float32)])
    maps = [np.ones((2, 4, 4, 3), np.float32)]
    assert _slopes(head, maps, [1, 0]).tolist() == [[1, -2, 0.5], [-1, 2, -0.5]]
    strength = np.zeros((4, 4), np.float32)
    strength[0, 0] = 1
    drawn = np.asarray(_laid_over(np.full((32, 32, 3), 128, np.uint8), strength)).sum(axis=2)
    assert drawn[:20, :20].mean() > drawn[80:, 80:].mean() + 50


def test_names_with_markup_stay_text(prepared: Path, extraction: ExtractionConfig, small: FeatureConfig,
                                     tmp_path: Path) -> None:  # fmt: skip
    data = tmp_path / "data"
    for file in sorted(prepared.rglob("*.jpg")):
        place = data / file.parts[-3] / HOSTILE[file.parts[-2] == "dog"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / f"<b onclick=x>{file.name}")
    train_run(data, tmp_path / "run", small, extraction, HeadConfig(units=(4,), epochs=1, learning_rate=1e-6))
    report([tmp_path / "run"], ReportConfig(tmp_path / "x.html"))
    page = Page(tmp_path / "x.html")
    page.require_safe()
    page.require_accessible()
    assert HOSTILE[0] in page.text
    assert "\u202e" not in page.source
    assert "<b onclick=x>" in page.text


def test_data_that_are_gone_leave_the_run_alone(headstart, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])
    result = headstart("report", run, "--output", tmp_path / "x.html")
    assert len(result["missing"]) == 2
    assert "gone is gone" in result["missing"][0]
    page = Page(tmp_path / "x.html")
    page.require_safe()
    page.require_accessible()
    assert page.of("img") == []
    assert "right on 57 of 60 images of test" in page.text
    assert "left out: temperature scaling" in page.text
    assert f"{HOSTILE[0]}0.jpg" in page.text
    file = run / "predictions-test.csv"
    file.write_text(file.read_text().replace("head:b", "other:b"))
    assert "has no logits of the head" in shown(run, tmp_path)
    file.unlink()
    assert "no predictions on test: head, val accuracy 0.9000" in shown(run, tmp_path)
    assert "is gone" in headstart.error("report", run, "--store", tmp_path, "--output", tmp_path / "y.html")
    assert not (tmp_path / "y.html").exists()


def shown(run: Path, folder: Path) -> str:
    report([run], ReportConfig(folder / "x.html"))
    return Page(folder / "x.html").text


def test_odd_histories_are_told_and_long_ones_thinned(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])
    header = "phase,epoch,loss,accuracy,val_loss,val_accuracy\n"
    rows = [f"head,{at},1e308,.6,1,.7\n" if at < 3 else f"head,{at},1,.6,,.7\n" for at in range(1, 5001)]
    (run / "history.csv").write_text(header + "".join(rows))
    text = shown(run, tmp_path)
    assert "left out: training: figures that are not finite, or over 1e+06, of 2 epochs" in text
    assert "head" in text
    assert (tmp_path / "x.html").stat().st_size < 500_000
    (run / "history.csv").write_text(header.replace("val_loss", "other") + "head,1,1,1,1,1\n")
    text = shown(run, tmp_path)
    assert "left out: training: " in text
    assert "has no column 'val_loss'" in text
    assert "right on 57 of 60" in text


def test_each_phase_has_a_line_of_its_own(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])

    def lines(phases: list[str]) -> int:
        rows = [f"{phase},{at},2,.5,2,.5\n" for at, phase in enumerate(phases)]
        (run / "history.csv").write_text("phase,epoch,loss,accuracy,val_loss,val_accuracy\n" + "".join(rows))
        shown(run, tmp_path)
        source = (tmp_path / "x.html").read_text()
        training = source[source.index(">Training</h2>") :]
        return training[: training.index("</section>")].count("stroke-width: 2;")

    assert lines(["head", "head", "finetune", "finetune"]) > lines(["head"] * 4)


def test_a_kept_threshold_is_told(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])
    assert "b is the positive class" in shown(run, tmp_path)
    rule = {"positive": "a", "value": 0.3, "chosen": "sensitivity 0.9 on val"}
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["head"]["threshold"] = rule
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = shown(run, tmp_path)
    assert "It answers a above a probability of 0.3 (sensitivity 0.9 on val)." in text
    assert "a is the positive class" in text
    assert "a above 0.3" in text
    assert "on its most probable answers" not in text


@pytest.mark.slow
def test_what_puts_an_accuracy_in_context_is_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])
    plain = shown(run, tmp_path)
    assert "probabilities are off by" not in plain
    assert "if perfectly calibrated" in plain
    assert "on its most probable answers" in plain
    metrics = json.loads((run / "metrics.json").read_text())
    folds = {"folds": 5, "repeats": 3, "n": 80, "accuracy": 0.91, "accuracy_interval": [0.85, 0.95]}
    simple = {"accuracy": 0.8, "accuracy_interval": [0.7, 0.9], "top5": None, "loss": 0.4567, "images": 3}
    metrics |= {"cross_validation": folds, "evaluate": {"test": {"n": 60, "logistic_regression": simple}}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = shown(run, tmp_path)
    assert "Cross-validation on 80 images gives heads with its settings the accuracy 0.9100" in text
    assert "logistic regression" in text
    assert "0.4567" in text
    metrics["cross_validation"] |= {"accuracy": 7}
    simple["accuracy"] = "x"
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = shown(run, tmp_path)
    assert "left out: cross-validation: " in text
    assert "left out: logistic regression: " in text
    many = shown(made_run(tmp_path / "many", ["a", "b"], images=600), tmp_path)
    assert "probabilities are off by" in many


def test_many_classes_have_pairs_in_place_of_a_matrix(tmp_path: Path) -> None:
    few = made_run(tmp_path / "few", list("abcd"))
    many = made_run(tmp_path / "many", [f"class {at}" for at in range(30)])
    text = shown(few, tmp_path)
    assert "columns are the answers" in text
    assert "each class against the rest" in text
    text = shown(many, tmp_path)
    assert "columns are the answers" not in text
    assert "against the rest" not in text
    assert "class 0class 11 of 2" in text


@pytest.mark.parametrize("names", [["a", "b"], [f"class {at}" for at in range(30)]])
def test_a_run_without_mistakes(names: list[str], tmp_path: Path) -> None:
    text = shown(made_run(tmp_path / "run", names, wrong=0), tmp_path)
    assert "It errs on none of them" in text
    assert "There are none." in text


@pytest.mark.slow
def test_a_thousand_classes_are_a_small_page_that_opens_at_once(tmp_path: Path) -> None:
    names = [f"{HOSTILE[at % 2]} {at:04}" for at in range(1000)]
    report([made_run(tmp_path / "run", names, wrong=500, images=10_000)], ReportConfig(tmp_path / "x.html"))
    assert (tmp_path / "x.html").stat().st_size < 5_000_000
    require_opens(tmp_path / "x.html", seconds=2)


def test_runs_are_compared(headstart, tmp_path: Path) -> None:
    runs = [made_run(tmp_path / HOSTILE[at], ["a", "b"], wrong=3 * at, units=16 + at) for at in range(2)]
    report(runs, ReportConfig(tmp_path / "x.html"))
    page = Page(tmp_path / "x.html")
    page.require_safe()
    page.require_accessible()
    assert "17, 16 of them as in the first run" in page.text
    assert "0".zfill(64)[:8] not in page.text
    headstart("compare", *runs, "--html", tmp_path / "y.html")
    assert Page(tmp_path / "y.html").text == page.text
    report([*runs], ReportConfig(tmp_path / "y.html"))


def test_only_a_report_is_replaced_without_asking(headstart, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ["a", "b"])
    other = tmp_path / "letter.html"
    other.write_text("Dear Ada")
    assert "exists and is no page of headstart" in headstart.error("report", run, "--output", other, code=2)
    assert other.read_text() == "Dear Ada"
    headstart("report", run, "--output", other, "--overwrite")
    headstart("report", run, "--output", other)
    assert "is a folder" in headstart.error("report", run, "--output", tmp_path, code=2)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in headstart.error("report", run, "--output", tmp_path / "pipe", code=2)
    headstart.error("report", run, "--output", other / "x.html", code=2)
    with pytest.raises(OptionError, match="twice"):
        report([run, run], ReportConfig(tmp_path / "z.html"))
    assert "not a run folder" in headstart.error("report", tmp_path, "--output", tmp_path / "z.html")
    assert not (tmp_path / "z.html").exists()
    assert not list(tmp_path.glob(".*"))
