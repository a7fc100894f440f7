"""A new fine-tuning leaves what was evaluated of the head."""

from pathlib import Path

from headstart.pipeline.finetune.forgetting import forget_classifier
from headstart.pipeline.runs import Run


def test_the_heads_metrics_and_predictions_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    head = {"n": 2, "head": {"loss": 1}}
    run.update(run.metrics_file, head={"seconds": 1}, evaluate={"val": {**head, "finetuned": {}, "better": "head"}})
    both = 'path,label,head:dog,finetuned:dog\n"a,b.jpg",dog,0.5,0.25\n\udcff.jpg,cat,1.5,1.25\n'
    run.predictions_file("val").write_text(both, "utf-8", "surrogateescape")
    forget_classifier(run)
    assert run.metrics() == {"head": {"seconds": 1}, "evaluate": {"val": head}}
    left = run.predictions_file("val").read_text("utf-8", "surrogateescape")
    assert left == 'path,label,head:dog\n"a,b.jpg",dog,0.5\n\udcff.jpg,cat,1.5\n'
    forget_classifier(run)  # there is nothing to forget
    assert run.predictions_file("val").read_text("utf-8", "surrogateescape") == left


def test_what_the_classifier_predicted_is_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.predictions_file("val").write_text("path,model,predicted,probability\na,finetuned,cat,0.9\nb,head,cat,0.8\n")
    (tmp_path / "confusion-val.csv").write_text("model,true,predicted,count\nfinetuned,cat,dog,3\nhead,cat,dog,4\n")
    forget_classifier(run)
    assert run.predictions_file("val").read_text() == "path,model,predicted,probability\na,,,\nb,head,cat,0.8\n"
    assert (tmp_path / "confusion-val.csv").read_text() == "model,true,predicted,count\nhead,cat,dog,4\n"


def test_a_run_that_was_never_evaluated(tmp_path: Path) -> None:
    forget_classifier(Run(tmp_path))
    assert Run(tmp_path).metrics() == {}
