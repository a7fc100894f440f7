"""Charts of the report.

- loss and accuracy, with head training and fine-tuning on one time line
- ROC and precision-recall
- the reliability diagram
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from headstart.pipeline.evaluate.trust import abstain_limit, score_trust
from headstart.pipeline.pages.charts import INK, SERIES, SOFT, chart, side_by_side
from headstart.pipeline.pages.html import escaped, printable, shortened
from headstart.pipeline.pages.tables import table
from headstart.pipeline.report.evidence import NAMES, Evidence, or_missing
from headstart.pipeline.runs import HISTORY_COLUMNS, read_calibration
from headstart.pipeline.scoring.calibration import calibration_error, chance_error, reliability
from headstart.pipeline.scoring.metrics import probabilities, roc_auc
from headstart.pipeline.scoring.thresholds import moved

_MOST_CURVES = 6  # classes; with more, there are no curves of each class against the rest
_POINTS = 300  # points of a curve
_MOST_CHOSEN = 2  # epochs that were kept: one of each phase
_LARGEST = 1e6  # the largest loss that is drawn
_STYLES = ("-", "--", ":", "-.")


def training(evidence: Evidence) -> str:
    """Return HTML charts of loss and accuracy by epoch. The epochs of fine-tuning follow the epochs of the head."""
    rows = or_missing(evidence.run.history, "training", evidence.missing)
    if not rows:
        return ""
    phases, kept = [row["phase"] for row in rows], evidence.run.metrics()
    first = phases.index("finetune") if "finetune" in phases else len(rows)
    best = {phase: str(kept.get(phase, {}).get("best_epoch")) for phase in set(phases)}
    chosen = [at for at, row in enumerate(rows) if row["epoch"] == best[row["phase"]]][:_MOST_CHOSEN]

    def course(name: str) -> str:
        series = {
            split: np.array([_number(row.get(column, "")) for row in rows])
            for split, column in (("train", name), ("val", f"val_{name}"))
        }
        return _course(name, series, first, chosen)

    odd = sum(any(row[name] and np.isnan(_number(row[name])) for name in HISTORY_COLUMNS[2:]) for row in rows)
    if odd:
        evidence.missing.append(f"training: figures that are not finite, or over {_LARGEST:g}, of {odd:,} epochs")
    return side_by_side(course("loss"), course("accuracy"))


def _course(name: str, series: dict[str, np.ndarray], first: int, chosen: list[int]) -> str:
    epochs = len(series["val"])
    # Each phase has its own line, because the figures of fine-tuning do not go on from those of the head's last epoch.
    parts = [_thinned(*ends) for ends in ((0, first), (first, epochs)) if ends[0] < ends[1]]

    def draw(axes: Any) -> None:
        for split, style, colour in zip(series, _STYLES, SERIES, strict=False):
            for number, rows in enumerate(parts):
                named = {} if number else {"label": split}
                axes.plot(rows + 1, series[split][rows], style, color=colour, marker=".", linewidth=2, **named)
        for at in chosen:
            axes.plot([at + 1], [series["val"][at]], "o", color=INK, fillstyle="none", markersize=10)
        if 0 < first < epochs:
            axes.axvline(first + 0.5, color=SOFT, linestyle=":")
            axes.annotate(" fine-tuning", (first + 0.5, 1), xycoords=("data", "axes fraction"), color=SOFT, va="bottom")
        axes.set_xlabel("epoch, of the head and then of fine-tuning" if first < epochs else "epoch of the head")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    ends = "; ".join(f"{split} from {_shown(values[0])} to {_shown(values[-1])}" for split, values in series.items())
    title = f"{name.capitalize()} by epoch; a ring marks the epoch that was kept"
    return chart(draw, title, f"{name} over {epochs} epochs: {ends}", (5.2, 3.4))


def detection(evidence: Evidence) -> str:
    """Return charts of ROC and precision-recall curves, as HTML. If there are no curves, return an empty string.

    With two classes, each model has a curve. With three to six classes, each class has a curve, which is drawn for the
    model that `predict` uses. With more classes, there are no curves. If none or all of the images are of a class, this
    class has no curve.
    """
    found = evidence.predictions
    if not found or len(found.class_names) > _MOST_CURVES:
        return ""
    names = found.class_names
    if len(names) == 2:
        scores = {model: (probabilities(logits)[:, 1], found.labels == 1) for model, logits in found.logits.items()}
        about = f"finding {names[1]}"
    else:
        chances = probabilities(found.logits[evidence.answering])  # as for the area in the table of figures
        scores = {name: (chances[:, label], found.labels == label) for label, name in enumerate(names)}
        about = f"each class against the rest, by {NAMES[evidence.answering]}"
    scores = {name: one for name, one in scores.items() if 0 < one[1].sum() < len(one[1])}
    if not scores:
        return ""
    from sklearn.metrics import precision_recall_curve, roc_curve

    def roc(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wrong, right, _ = roc_curve(positive, score)
        return wrong, right

    def precision_recall(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        precision, recall, _ = precision_recall_curve(positive, score)
        return recall, precision

    areas = ", ".join(f"{name} {roc_auc(*one):.4f}" for name, one in scores.items())
    axes = ("share of the others taken for it", "share found")
    return side_by_side(
        _lines(f"ROC, {about}", axes, scores, roc, areas),
        _lines(f"Precision and recall, {about}", ("recall", "precision"), scores, precision_recall, ""),
    )


def _lines(
    title: str,
    axis_labels: tuple[str, str],
    scores: dict[str, tuple[np.ndarray, np.ndarray]],
    curve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    areas: str,
) -> str:
    def draw(axes: Any) -> None:
        for number, (name, one) in enumerate(scores.items()):
            x, y = curve(*one)
            at = _thinned(0, len(x))
            style, colour = _STYLES[number // len(SERIES) % len(_STYLES)], SERIES[number % len(SERIES)]
            # Without the space, matplotlib would leave a name that begins with `_` out of the legend.
            axes.plot(x[at], y[at], style, color=colour, linewidth=2, label=f" {shortened(printable(name))}")
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="lower center")

    told = f"{title}. Areas under the curve: {areas}" if areas else title
    return chart(draw, told, told, (5.2, 4.2))


def calibration(evidence: Evidence) -> str:
    """Return HTML that shows how far probabilities can be trusted.

    The HTML has reliability diagrams and calibration errors of each model, before and after temperature scaling. The
    tables of `_trust` follow. Without predictions, the result is an empty string.
    """
    found = evidence.predictions
    if not found:
        return ""
    rows, drawn = [], []
    for model in evidence.models:
        heat = evidence.temperatures.get(model)
        sides = {"as trained": probabilities(found.logits[model])}
        if heat is not None:
            sides["after temperature scaling"] = probabilities(found.logits[model] / heat)
        errors = [calibration_error(chances, found.labels) for chances in sides.values()]
        perfect = chance_error(evidence.chances(model))
        rows.append([escaped(model), *(f"{error:.4f}" for error in errors), *([] if heat else ["-"]),
                     f"{perfect:.4f}", f"{heat:.3f}" if heat else "-"])  # fmt: skip
        drawn.append(_diagram(model, sides, found.labels))
    columns = ["model", "as trained", "after temperature scaling", "if perfectly calibrated", "temperature"]
    same = "; it was fitted on these images, so the error after is too low" if evidence.scored == "val" else ""
    of_val = f"val ({len(evidence.val.labels):,} images)" if evidence.val else "val"
    note = f"The temperature is fitted on {of_val}{same}." if evidence.temperatures else ""
    caption = f"Expected calibration error: the mean gap of confidence and accuracy. {note}"
    return side_by_side(*drawn) + table(caption, columns, rows, "numbers") + _trust(evidence)


def _trust(evidence: Evidence) -> str:
    """Return HTML tables about the model of `predict`: its accuracy by coverage, and its conformal prediction sets."""
    found, model = evidence.predictions, evidence.answering
    assert found
    rule = moved(evidence.run.threshold(model))
    scored = score_trust(found.logits[model], found.labels, read_calibration(evidence.run, model), rule)
    covered = [
        [f"{one['coverage']:.0%}", f"{one['accuracy']:.4f}", abstain_limit(one["probability"])]
        for one in scored["at_coverage"]
    ]
    sets = [
        [f"{1 - one['alpha']:.0%}", f"{one['coverage']:.1%}", f"{one['mean_size']:.2f}"]
        for one in scored["conformal"]
        if one["coverage"] is not None
    ]
    about = f"Accuracy of {NAMES[model]} on its most probable answers"
    columns = ["share of the answers", "accuracy", "least probability (--abstain)"]
    shown = table(about, columns, covered, "numbers") if covered else ""
    about = f"Sets of labels by {NAMES[model]} (--conformal)"
    columns = ["asked to hold the true label", "hold it", "labels in a set, on average"]
    return shown + (table(about, columns, sets, "numbers") if sets else "")


def _diagram(model: str, sides: dict[str, np.ndarray], labels: np.ndarray) -> str:
    bins = {name: reliability(chances, labels) for name, chances in sides.items()}

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, linestyle=":", linewidth=1)
        for (name, found), colour, marker in zip(bins.items(), SERIES, "os", strict=False):
            sizes = [20 + 200 * one.count / len(labels) for one in found]
            confidence, accuracy = [one.confidence for one in found], [one.accuracy for one in found]
            axes.scatter(confidence, accuracy, sizes, color=colour, marker=marker, label=name, alpha=0.8)
        axes.set_xlabel("probability of the answer")
        axes.set_ylabel("share of right answers")
        axes.set_xlim(min(0.5, *(one.confidence for found in bins.values() for one in found)) - 0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.legend(loc="lower right", markerscale=0.6)

    told = "; ".join(
        f"{name}: " + ", ".join(f"{one.confidence:.2f} right {one.accuracy:.2f} of {one.count}" for one in found)
        for name, found in bins.items()
    )
    return chart(draw, f"Reliability of {NAMES[model]}; a point is as large as its number of images", told, (5.2, 4.2))


def _thinned(start: int, end: int) -> np.ndarray:
    """Return at most 300 positions, int64 [P], evenly spaced. The first is `start`, and the last is `end - 1`."""
    return np.unique(np.linspace(start, end - 1, _POINTS).astype(int))


def _number(text: str) -> float:
    """Return the number in a cell of `history.csv`.

    If `text` is not a number, or if the number is too large to draw, return NaN.
    """
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if abs(value) <= _LARGEST else float("nan")


def _shown(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:.4f}"
