"""`headstart demo`: draw cats and dogs, run every stage on them, and show what was learnt."""

import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError
from headstart.features.files import write_atomically
from headstart.features.options import flags
from headstart.features.terminal import console
from headstart.pipeline.demo.config import DEMO_IMAGES
from headstart.pipeline.demo.drawing import DemoResult, draw_demo
from headstart.pipeline.demo.network import choose_network
from headstart.pipeline.demo.picture import draw_picture, read_guesses
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.evaluate.result import EvaluateResult
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.finetune.result import FinetuneResult
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import HeadResult, train_run
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.report.config import ReportConfig
from headstart.pipeline.report.report import report
from headstart.pipeline.runs import Run

_FOLDER = Path("demo")
FINETUNING = FinetuneConfig(epochs=3, learning_rate=1e-3)
_FEW_BROKEN = 0.05  # fraction of the drawings; if more are broken, `prepare` is told to accept them
_MARK = "about.txt"  # marks a folder that the demo made, and may replace
_ABOUT = "`headstart demo` made this folder, and makes it anew when it runs again.\n"


class _Shown(Protocol):
    """The result of a stage."""

    def lines(self) -> Iterable[Any]:
        """Return the summary of the result, for a person."""


_Stage = TypeVar("_Stage", bound=_Shown)


@dataclass(frozen=True)
class DemoRunResult:
    """The results of the demo's stages, the paths of the picture and the report, and the total time in seconds."""

    drawn: DemoResult
    features: FeaturedExamples
    trained: HeadResult
    tuned: FinetuneResult
    tested: EvaluateResult
    picture: str
    report: str
    seconds: float

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints. In it, `head` and `finetuned` are metrics on the test split."""
        config = self.features.config
        return {
            **self.drawn.fields(),
            "backbone": config.backbone,
            "weights": config.weights,
            "extracted": self.features.extracted.extracted,
            "test_images": self.tested.n,
            "head": self.tested.head,
            "finetuned": self.tested.finetuned,
            "val": {"head": self.tuned.before, "finetuned": self.tuned.after},
            "run": self.trained.run,
            "picture": self.picture,
            "report": self.report,
            "seconds": self.seconds,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`.

        The lines are an empty line, a line about each phase, and a line that says where the results are.
        """
        head, finetuned, n = self.tested.head, self.tested.finetuned, self.tested.n
        yield ""
        low, high = head["accuracy_interval"]
        on_test = "no epoch was better than the head"
        if finetuned:
            on_test = (
                f"on test, loss {head['loss']:.4f} -> {finetuned['loss']:.4f}, accuracy {head['accuracy']:.1%} -> "
                f"{finetuned['accuracy']:.1%}"
            )
        done, before, after = self.features.extracted, self.tuned.before, self.tuned.after
        passes = f"in {done.seconds:.1f} s" if done.extracted else "in an earlier run of the demo"
        yield (
            f"Phase 1: the network saw each of {len(self.features.examples)} images once, {passes}; a head on its "
            f"features took {self.trained.seconds:.1f} s, and is right on {head['accuracy']:.1%} of {n} unseen test "
            f"drawings (95 % interval {low:.1%} to {high:.1%})."
        )
        yield (
            f"Phase 2: {self.tuned.epochs} epochs of fine-tuning took {self.tuned.seconds:.0f} s; on val, loss "
            f"{before['loss']:.4f} -> {after['loss']:.4f}, accuracy {before['accuracy']:.1%} -> "
            f"{after['accuracy']:.1%}; {on_test}."
        )
        yield (
            f"See {self.picture}, and open {self.report} in a browser; the run is {self.trained.run}. With photographs "
            "of your own, in a folder for each class, begin with: headstart prepare PHOTOS data"
        )


def run_demo(
    images: int = DEMO_IMAGES,
    seed: int = 0,
    folder: Path = _FOLDER,
    network: FeatureConfig | None = None,
    finetuning: FinetuneConfig | None = None,
) -> DemoRunResult:
    """Draw pictures of cats and dogs in `folder`, run every stage on them, and print the command line of each stage.

    If `folder` holds an earlier demo, all its results except the features are made again. Raises DataError if `folder`
    holds anything else.

    Args:
        images: number of pictures.
        seed: the seed of the pictures and of every stage.
        network: settings of the features. By default, `choose_network` chooses them, and may raise an OptionError.
        finetuning: settings of phase 2. The default is `FINETUNING`.
    """
    start = time.perf_counter()
    _require_no_other(folder)
    features, finetuning = network or choose_network(), finetuning or FINETUNING
    _claim(folder)
    drawings, data, run, picture = (folder / name for name in ("drawn", "data", "run", "demo.png"))
    extraction = ExtractionConfig(store=folder / "store")
    counted = [f"--images={images}"] if images != DEMO_IMAGES else []
    seeded = [f"--seed={seed}"] if seed else []
    asked = [f"--store={extraction.store}", *flags(features), *seeded]

    _announce("demo", drawings, *counted, *seeded)
    drawn = _shown(draw_demo(drawings, images, seed))
    limit = PrepareConfig(max_rejects=1.0 if drawn.broken > _FEW_BROKEN * images else PrepareConfig.max_rejects)
    _announce("prepare", drawings, data, *seeded, *flags(limit))
    _shown(prepare(drawings, data, limit, seed))
    _announce("features", data, *asked)
    cached = _shown(cache_features(data, features, extraction, seed))
    _announce("head", data, f"--run={run}", *asked, "--overwrite")
    trained = _shown(train_run(data, run, features, extraction, HeadConfig(), True, seed))
    _announce("finetune", run, *flags(finetuning), *seeded, "--overwrite")
    tuned = _shown(finetune(run, finetuning, True, seed))
    _announce("evaluate", run)
    tested = _shown(evaluate(run))
    page = folder / "report.html"
    _announce("report", run, f"--output={page}")
    _shown(report([run], ReportConfig(page)))
    draw_picture(picture, read_guesses(Run.open(run)), cached.class_names, _heading(features, tested))
    seconds = time.perf_counter() - start
    return DemoRunResult(drawn, cached, trained, tuned, tested, str(picture), str(page), seconds)


def _require_no_other(folder: Path) -> None:
    """Raise a DataError if `folder` exists, unless it is empty or holds an earlier demo."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(f"{folder}: exists and is no folder; move it away, or go to another folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_demo(folder):
        raise DataError(f"{folder}: exists and is no earlier demo; move it away, or go to another folder")


def _claim(folder: Path) -> None:
    """Make `folder`, and mark it as a folder of the demo. Remove the drawings and the data of an earlier demo."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _MARK, _ABOUT)
    for stale in ("drawn", "data"):  # drawings of another seed or number would stay among the new ones
        shutil.rmtree(folder / stale, ignore_errors=True)


def _is_demo(folder: Path) -> bool:
    mark = folder / _MARK
    return mark.is_file() and mark.read_bytes() == _ABOUT.encode()


def _announce(*arguments: object) -> None:
    """Print the command line of the next stage: `headstart` and the `arguments`."""
    console.print("\n$ " + shlex.join(["headstart", *map(str, arguments)]), style="bold")


def _shown(result: _Stage) -> _Stage:
    """Print the summary of a stage's result, and return the result."""
    for line in result.lines():
        console.print(line)
    return result


def _heading(features: FeatureConfig, tested: EvaluateResult) -> list[str]:
    return [
        f"{tested.n} drawings that training has not seen",
        f"phase 1, a head on features of {features.backbone}: {_scored(tested.head)}",
        f"phase 2, fine-tuned: {_scored(tested.finetuned) if tested.finetuned else 'no epoch was better'}",
    ]


def _scored(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['accuracy']:.1%} right, loss {metrics['loss']:.4f}"
