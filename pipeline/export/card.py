"""The model card: what an export is, how good it is, how to run it, and where its limits are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from headstart.features.backbones.cuts import chosen_weights
from headstart.features.backbones.outlines import is_own
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.errors import HeadstartError
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.export.comparison import Comparison
from headstart.pipeline.export.config import Format
from headstart.pipeline.export.folder import example_of
from headstart.pipeline.export.source import Source
from headstart.pipeline.runs import PHASES, Run, read_csv
from headstart.pipeline.runs.run import EXAMPLES_COLUMNS
from headstart.pipeline.scoring.metrics import interval_text

_CLASSES = 100  # most classes that are listed
_INPUT: dict[Format, str] = {
    "keras": "a `.keras` file, for `keras.saving.load_model`",
    "saved_model": "a TensorFlow SavedModel; its signature `files` takes the bytes of JPEG and PNG files instead",
    "onnx": "an ONNX model, for ONNX Runtime",
    "litert": "a LiteRT (TensorFlow Lite) model",
    "openvino": "an OpenVINO model: `model.xml` with its weights in `model.bin`",
}


def card(source: Source, labels: Mapping[str, Any], compared: Comparison) -> str:
    """Return the text of the model card, in Markdown. `labels` is the content of `labels.json`."""
    sections = {
        f"Image classifier: {_shortly(labels['class_names'])}": _what(source, labels),
        "Use": _use(labels),
        "Data": _data(source.run, labels["class_names"]),
        "Figures": [*_figures(source), *_compared(labels, compared)],
        "Limits": _limits(source, labels),
        "Licence": _licence(source),
    }
    (title, first), *others = sections.items()
    rest = (line for name, lines in others for line in ("", f"## {name}\n", *lines))
    return "\n".join([f"# {title}\n", *first, *rest, ""])


def _shortly(names: list[str]) -> str:
    return _plain(", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more")


def _plain(text: str) -> str:
    """Return `text` in one line. Characters that mean something in Markdown are escaped."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in " ".join(text.split()))


def _what(source: Source, labels: Mapping[str, Any]) -> Iterator[str]:
    made, size, count = labels["provenance"], labels["preprocessing"]["size"], len(labels["class_names"])
    model = "a head on its features" if made["model"] == "head" else "fine-tuned, with a head"
    yield f"`{labels['model']}` is {_INPUT[labels['format']]}. It maps pixels, uint8 [N, {size}, {size}, 3], RGB, to"
    yield f"probabilities, float32 [N, {count}], in the order of `class_names` in `labels.json`. It takes"
    yield f"{labels['bytes'] / 1e6:.1f} MB, in {labels['precision']}."
    yield ""
    yield f"- Network: {_plain(made['backbone'])} at {_plain(', '.join(made['cut']))}, {model}"
    yield f"- Made by headstart {made['headstart']} from the run `{_plain(made['run'])}`"
    if source.calibration:
        yield f"- Probabilities are calibrated on val: logits are divided by {labels['temperature']:.4g} in the model"
    else:
        yield "- Probabilities are not calibrated"
    if source.choice.threshold:
        yield f"- Threshold: {_plain(str(source.choice.threshold))}. The model yields probabilities; apply it to them"


def _use(labels: Mapping[str, Any]) -> Iterator[str]:
    yield "`preprocess.py` makes of a file the pixels that it was trained on, within one grey level. Other ways to"
    yield "resize change answers."
    yield "This is `example.py`:"
    yield ""
    yield f"```python\n{example_of(labels['format']).strip()}\n```"


def _data(run: Run, names: list[str]) -> Iterator[str]:
    try:
        rows = read_csv(run.examples_file, EXAMPLES_COLUMNS)
    except HeadstartError:
        yield "The run has lost its list of examples."
        return
    counts = Counter((row["label"], row["split"]) for row in rows)
    yield f"| images of | {' | '.join(SPLITS)} |"
    yield f"|---|{'---:|' * len(SPLITS)}"
    for name in names[:_CLASSES]:
        yield f"| {_plain(name)} | {' | '.join(str(counts[name, split]) for split in SPLITS)} |"
    if len(names) > _CLASSES:
        yield f"| {len(names) - _CLASSES} more classes | {' | '.join('' for _ in SPLITS)} |"
    whole = (sum(row["split"] == split for row in rows) for split in SPLITS)
    yield f"| all | {' | '.join(map(str, whole))} |"


def _figures(source: Source) -> Iterator[str]:
    metrics, model = source.run.metrics(), source.choice.model
    val = metrics.get(PHASES[model], {}).get("val", {})
    if "accuracy" in val:
        yield f"- Val, on which the best epoch was chosen: accuracy {val['accuracy']:.4f}"
    found = metrics.get("evaluate", {})
    for key, scored in found.items():
        if not isinstance(scored, Mapping) or not isinstance(own := scored.get(model), Mapping):
            continue
        split = scored.get("split", key)  # version 0.1.0 kept no `split`
        if split == "train":
            continue
        what = f"Split `{_plain(str(split))}`" if key in SPLITS else f"Other data, `{_plain(key)}`"
        if rates := ", ".join(_rates(own)):
            yield f"- {what}, {scored.get('n')} images: {rates}"
        error = own.get("calibration_error")
        if isinstance(error, Mapping) and isinstance(error.get("after"), float):
            yield f"  - expected calibration error {error['after']:.4f}"
    if not found:
        yield "- The run was not evaluated on test images: `headstart evaluate` gives figures on images it never saw"


def _rates(own: Mapping[str, Any]) -> Iterator[str]:
    """Yield a model's accuracy and balanced accuracy as texts.

    The argument `own` holds the metrics of the model. A missing metric is left out.
    """
    accuracy, balanced = own.get("accuracy"), own.get("balanced_accuracy")  # an older run may lack one
    if isinstance(accuracy, float):
        ends = own.get("accuracy_interval")
        yield f"accuracy {accuracy:.4f}" + (f" (95 % interval {interval_text(ends)})" if ends else "")
    if isinstance(balanced, float):
        yield f"balanced {balanced:.4f}"


def _compared(labels: Mapping[str, Any], compared: Comparison) -> Iterator[str]:
    yield f"- This file ({labels['format']}, {labels['precision']}) in its own runtime, against the run it came from:"
    for line in compared.lines(named=False):  # a path may be private
        yield f"  - {_plain(line)}"


def _limits(source: Source, labels: Mapping[str, Any]) -> Iterator[str]:
    yield f"- It answers with one of its {len(labels['class_names'])} classes for every image, also for one of none."
    yield "- Figures and probabilities hold for images like those it was trained and scored on. Before you rely on it"
    yield "  for images of other cameras, places or times, score some of them."
    yield "- Val chose the best epoch and the temperature, so figures on val are a little too good."
    yield "- `preprocess.py` names the rare files of which it makes other pixels than headstart."
    if labels["precision"] != "float32":
        yield f"- Weights are {labels['precision']}: single probabilities differ from the run's; see Figures."
    precision = source.run.feature_config().precision
    if source.networks and precision != "float32":
        yield f"- The run computes its features in {precision}; this file computes in float32, and may differ a little."


def _licence(source: Source) -> Iterator[str]:
    changed = ", and fine-tuned" if source.choice.model == "finetuned" else ""
    for name, weights in chosen_weights(source.run.feature_config()).items():
        if is_own(name):
            yield f"- {_plain(name.rsplit('/', 1)[-1])}: a network of your own; headstart does not know its licence"
        elif weights == "imagenet" and BACKBONES[name].shipped:
            yield f"- {name}: weights of The TensorFlow Authors, trained on ImageNet{changed}; Apache License 2.0"
        elif weights == "imagenet":
            yield f"- {name}: ImageNet weights that Keras distributes{changed}; their source states the licence"
        elif weights == "random":
            yield f"- {name}: weights that began as random numbers{changed}"
        else:
            yield f"- {name}: weights from a file{changed}; headstart does not know their licence"
    yield "- The head was trained on the images above. Whoever owns them may have a say in its use."
