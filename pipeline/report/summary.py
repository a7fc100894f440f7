"""The beginning of the report: a few sentences, a list of what is missing, and tables of the metrics."""

from headstart.pipeline.evaluate.threshold import threshold_fields
from headstart.pipeline.pages.html import escaped, isolated, items, shortened
from headstart.pipeline.pages.tables import table
from headstart.pipeline.report.evidence import NAMES, Evidence
from headstart.pipeline.scoring.calibration import FEWEST, calibration_error
from headstart.pipeline.scoring.metrics import confusions, mcnemar
from headstart.pipeline.scoring.thresholds import Threshold


def summary(evidence: Evidence) -> str:
    """Return HTML: one or more sentences, and then a list of the parts that the report leaves out.

    If the run has predictions, the sentences tell the accuracy of the model that `predict` uses, what fine-tuning
    changed, and the most frequent error. If the run has no predictions, one sentence tells the accuracy of each model
    on val.
    """
    if not evidence.predictions:
        left_out = _left_out(evidence)
        phases = evidence.run.metrics()
        told = "; ".join(
            f"{phase}, val accuracy {figures['accuracy']:.4f}" for phase in ("head", "finetune")
            if (figures := phases.get(phase, {}).get("val", {})).get("accuracy") is not None
        )  # fmt: skip
        return (
            f"<p class=lead>This run has no predictions on {escaped(evidence.scored)}: {escaped(told)}.</p>{left_out}"
        )
    parts = [_how_good(evidence), _by_threshold(evidence), _by_folds(evidence), _fine_tuning(evidence)]
    sentences = [one for one in (*parts, _what_is_wrong(evidence)) if one]
    return f"<p class=lead>{' '.join(sentences)}</p>{_left_out(evidence)}"


def _left_out(evidence: Evidence) -> str:
    return items([f"left out: {line}" for line in evidence.missing], "problems")


def figures(evidence: Evidence) -> str:
    """Return HTML tables of the metrics of each model, such as accuracy and AUC.

    If the run has no predictions, return an empty string.
    """
    if not evidence.predictions:
        return ""
    top = ["top5"] if evidence.metrics[evidence.answering]["top5"] is not None else []
    names = ["accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", *top, "auc", "loss"]
    titles = {"accuracy_interval": "95 % interval", "balanced_accuracy": "balanced", "macro_f1": "macro F1",
              "top5": "in the first five", "auc": "AUC"}  # fmt: skip
    rows = [
        [NAMES[model].removeprefix("the "), *(figure(metrics[name]) for name in names)]
        for model, metrics in evidence.metrics.items()
    ]
    if simple := evidence.simple:
        rows.append(["logistic regression", *(figure(getattr(simple, name)) for name in names)])
    caption = f"{len(evidence.predictions.labels):,} images of {escaped(evidence.scored)}"
    shown = table(caption, ["model", *(titles.get(name, name) for name in names)], rows, "numbers")
    return shown + _of_two_classes(evidence) + _of_folds(evidence)


def _of_two_classes(evidence: Evidence) -> str:
    """Return an HTML table of the sensitivity and specificity of each model.

    If the run does not have two classes, return an empty string.
    """
    names = evidence.run.class_names()
    if len(names) != 2:
        return ""
    kept = evidence.run.threshold(evidence.answering)
    positive, rows = kept.positive if kept else names[1], []
    for model, metrics in evidence.metrics.items():
        threshold = evidence.run.threshold(model)
        found = threshold_fields(metrics, positive, names, threshold)
        cells = [figure(found[f"{name}{end}"]) for name in ("sensitivity", "specificity") for end in ("", "_interval")]
        rows.append([NAMES[model].removeprefix("the "), *cells, _rule(threshold) if threshold else "none"])
    columns = ["model", "sensitivity", "95 % interval", "specificity", "95 % interval", "threshold"]
    return table(f"{isolated(positive)} is the positive class", columns, rows, "numbers")


def _rule(threshold: Threshold) -> str:
    return f"{isolated(threshold.positive)} above {threshold.value:.4g}"


def _of_folds(evidence: Evidence) -> str:
    """Return an HTML table of the result of cross-validation, or an empty string if the run has no such result."""
    if not (found := evidence.folds):
        return ""
    row = ["head", figure(found.accuracy), figure(found.accuracy_interval)]
    caption = f"Cross-validation: {found.n:,} images, {found.folds:,} folds, {found.repeats:,} times"
    return table(caption, ["model", "accuracy", "95 % interval"], [row], "numbers")


def figure(value: float | list[float] | None) -> str:
    """Return `value` as text.

    A float gets four decimals. The two ends of an interval (a list) get three decimals. None becomes `-`.
    """
    if value is None:
        return "-"
    return f"{value[0]:.3f} to {value[1]:.3f}" if isinstance(value, list) else f"{value:.4f}"


def _how_good(evidence: Evidence) -> str:
    found, model = evidence.predictions, evidence.answering
    assert found
    metrics, n = evidence.metrics[model], len(found.labels)
    counts = [(found.labels == label).sum() for label in range(len(found.class_names))]
    largest, share = int(max(range(len(counts)), key=counts.__getitem__)), max(counts) / n
    low, high = metrics["accuracy_interval"]
    beats = "" if low > share else ", so it is not shown to be better than that"
    return (
        f"{NAMES[model].capitalize()} is right on {round(metrics['accuracy'] * n):,} of {n:,} images of "
        f"{escaped(evidence.scored)}: accuracy <b>{metrics['accuracy']:.4f}</b> (95 % interval {low:.3f} to "
        f"{high:.3f}), where always answering {isolated(found.class_names[largest])} would give {share:.4f}{beats}."
    )


def _by_threshold(evidence: Evidence) -> str:
    threshold = evidence.run.threshold(evidence.answering)
    if not threshold:
        return ""
    chosen = escaped(shortened(threshold.chosen, 80))
    return f"It answers {isolated(threshold.positive)} above a probability of {threshold.value:.4g} ({chosen})."


def _by_folds(evidence: Evidence) -> str:
    """Return a sentence on the cross-validated accuracy or, without cross-validation, `Evidence.advice`."""
    if not (found := evidence.folds):
        return f"{escaped(evidence.advice)}." if evidence.advice else ""
    low, high = found.accuracy_interval
    return (
        f"Cross-validation on {found.n:,} images gives heads with its settings the accuracy {found.accuracy:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f})."
    )


def _fine_tuning(evidence: Evidence) -> str:
    if "finetuned" not in evidence.models:
        if "finetune" not in evidence.run.metrics():
            return "Nothing was fine-tuned."
        if evidence.run.finetuning_gained_nothing():
            return "No epoch of fine-tuning was better on val than the head."
        return "The fine-tuned classifier has no predictions on these images."
    if not evidence.comparable:
        return "The head and the fine-tuned classifier have different thresholds, so they are not compared."
    found = evidence.predictions
    assert found
    right = [evidence.predicted(model) == found.labels for model in ("finetuned", "head")]
    test = mcnemar("finetuned", "head", *right)
    before, after = (evidence.metrics[model]["accuracy"] for model in ("head", "finetuned"))
    if not test.only_first + test.only_second:
        return f"Fine-tuning changed no right or wrong answer: the head has the accuracy {before:.4f}, too."
    verdict = "more than chance explains" if test.p < 0.05 else "which may be chance"
    return (
        f"Fine-tuning changed the accuracy from {before:.4f} to {after:.4f}: it mended {test.only_first:,} "
        f"image{'s' * (test.only_first != 1)} and spoiled {test.only_second:,}, {verdict} (McNemar, p = {test.p:.2g})."
    )


def _what_is_wrong(evidence: Evidence) -> str:
    found, model = evidence.predictions, evidence.answering
    assert found
    chances = evidence.chances(model)
    wrong = [one for one in confusions(evidence.predicted(model), found.labels) if one[0] != one[1]]
    enough = len(found.labels) >= FEWEST  # with fewer, most of the error is chance
    error = f", and its probabilities are off by {calibration_error(chances, found.labels):.1%} on average"
    error = error if enough else ""
    if not wrong:
        return f"It errs on none of them{error}."
    true, other, count = max(wrong, key=lambda one: one[2])
    if count == 1 and len(wrong) > 1:
        return f"It errs on {len(wrong):,} of them, and takes no class for another twice{error}."
    names = found.class_names
    return (
        f"It errs most often by taking {isolated(names[true])} for {isolated(names[other])} ({count:,} of "
        f"{sum(one[2] for one in wrong):,} errors){error}."
    )
