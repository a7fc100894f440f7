"""What `headstart check` found, as fields for scripts and as lines and titles for people."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from headstart.pipeline.check.check import CheckResult
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.check.duplicates import CORRELATION
from headstart.pipeline.data.examples import Example


def facts(result: CheckResult, config: CheckConfig) -> list[str]:
    """Formats, sizes, imbalance, rejects, and what was not looked for, a line each."""
    lines = []
    if result.examples:
        sizes = (f"{name} {low:g} to {high:g}, median {middle:g}" for name, (low, middle, high) in result.sizes.items())
        lines.append(f"{_counted(result.formats)}; {', '.join(sizes)} pixels")
    largest, smallest, ratio = result.imbalance
    if ratio is None:
        lines.append("a class has no images in train")
    elif ratio >= config.imbalance:
        lines.append(f"imbalanced: {largest} images in train of the largest class, {smallest} of the smallest")
    reasons = f" ({_counted(result.reasons)})" if result.reasons else ""
    lines.append(f"{len(result.rejects)} rejected{reasons}, {result.ignored} other files ignored")
    if result.near_duplicates is None:
        lines.append(
            f"copies that were encoded or scaled anew: not looked for, {config.store} has no features of these"
        )
    return lines


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def findings(result: CheckResult, config: CheckConfig) -> dict[str, list[list[Example]]]:
    """What is there of each kind, by a title that says the limits; the images of a finding together."""
    near = {}
    if result.near_duplicates is not None:
        title = (
            f"near-duplicates across splits (cosine of whitened features at least {config.similarity:g}, correlation "
            f"of pixels at least {CORRELATION:g}; {result.store})"
        )
        near = {title: [[pair.image, pair.like] for pair in result.near_duplicates]}
    return {
        "leaks (the same image in several splits)": result.leaks,
        "conflicting labels (the same image in several classes)": result.conflicts,
        **near,
        "duplicates (the same image again in its class and split)": result.duplicates,
        f"tiny (a side under {config.tiny} pixels)": [[example] for example in result.tiny],
    }


def as_fields(result: CheckResult, config: CheckConfig) -> dict[str, Any]:
    """`result` as a JSON object; `similarity` and `correlation` are the least of near-duplicates."""

    def file(example: Example) -> dict[str, str]:
        label = result.class_names[example.label]
        return {"path": example.image.path, "label": label, "split": example.split}

    def groups(found: Sequence[Sequence[Example]]) -> list[dict[str, Any]]:
        return [{"digest": group[0].image.digest, "files": list(map(file, group))} for group in found]

    near = result.near_duplicates
    return {
        "examples": len(result.examples),
        "classes": result.classes,
        "splits": result.splits,
        "rejected": len(result.rejects),
        "reasons": result.reasons,
        "ignored": result.ignored,
        "duplicates": groups(result.duplicates),
        "conflicts": groups(result.conflicts),
        "leaks": groups(result.leaks),
        "near_duplicates": None if near is None else [
            {"cosine": pair.cosine, "correlation": pair.correlation, "files": [file(pair.image), file(pair.like)]}
            for pair in near
        ],
        "similarity": config.similarity,
        "correlation": CORRELATION,
        "features": None if result.store is None else str(result.store),
        "formats": result.formats,
        "sizes": result.sizes,
        "tiny": [file(example) for example in result.tiny],
        "imbalance": dict(zip(("largest", "smallest", "ratio"), result.imbalance, strict=True)),
        "rejects": [asdict(reject) for reject in result.rejects],
    }  # fmt: skip
