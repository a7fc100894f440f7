"""`headstart report`: write one page about a run, or about several runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.features.terminal import console
from headstart.pipeline.evaluate.compare import compare
from headstart.pipeline.evaluate.config import AskedSplit
from headstart.pipeline.evaluate.side_by_side import comparison
from headstart.pipeline.pages.html import escaped, isolated, require_page, write_html
from headstart.pipeline.places import Places
from headstart.pipeline.report.config import ReportConfig
from headstart.pipeline.report.confusion import classes, confusion
from headstart.pipeline.report.curves import calibration, detection, training
from headstart.pipeline.report.evidence import Evidence, gather
from headstart.pipeline.report.facts import data, settings
from headstart.pipeline.report.images_needed import images_needed
from headstart.pipeline.report.mistakes import changed, gallery, mistakes
from headstart.pipeline.report.summary import figures, summary


@dataclass(frozen=True)
class ReportResult:
    """The page that was written."""

    report: Path
    bytes: int
    missing: list[str]  # a line for each part that the page leaves out, with the reason

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"report": str(self.report), "bytes": self.bytes, "missing": self.missing}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield from (f"left out: {line}" for line in self.missing)
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{self.bytes / 1e3:.0f} KB"
        yield f"the report is {self.report} ({size})"


def report(
    paths: Sequence[Path],
    config: ReportConfig = ReportConfig(),
    split: AskedSplit = "auto",
    places: Places = Places(),
) -> ReportResult:
    """Write a page about one run, or about several runs side by side, to `config.output`.

    A split without predictions is evaluated first. If the data of a run are missing, see `gather`.

    Args:
        paths: the folders of the runs.
        split, places: see `evaluate`.

    Raises RunError if there is no run at one of `paths`. Raises OptionError if `config.output` can't be used, or if a
    run is named twice. Also raises the errors of `evaluate` and, for several runs, the errors of `compare`.
    """
    require_page("--output", config.output, config.overwrite, "give another name, or --overwrite")
    found = [gather(path, split, places) for path in paths]
    title, body = _one(found[0], config) if len(found) == 1 else _several(paths, found)
    write_html(config.output, title, body)
    missing = [line for evidence in found for line in evidence.missing]
    return ReportResult(config.output, config.output.stat().st_size, missing)


def _one(evidence: Evidence, config: ReportConfig) -> tuple[str, list[str]]:
    """Return the title of a page about one run, and the parts of the page as HTML."""
    made = gallery(evidence)
    sections = {
        "Figures": figures(evidence),
        "Confusions": confusion(evidence),
        "Classes": classes(evidence),
        "The most confident mistakes": mistakes(made),
        "Head against fine-tuned": changed(made),
        "Training": training(evidence),
        "How many images": images_needed(evidence) if config.study else "",
        "ROC, precision and recall": detection(evidence),
        "Probabilities": calibration(evidence),
        "Data": data(evidence),
        "Settings": settings(evidence),
    }
    shown = {title: html for title, html in sections.items() if html}
    links = "".join(f"<a href='#s{number}'>{escaped(title)}</a>" for number, title in enumerate(shown))
    name = evidence.run.path.resolve().name
    return f"Report of {name}", [
        f"<h1>Report of {isolated(name)}</h1>",
        summary(evidence),
        f"<nav aria-label='sections'>{links}</nav>",
        *(f"<section><h2 id=s{at}>{escaped(title)}</h2>{html}</section>" for at, (title, html) in
          enumerate(shown.items())),
    ]  # fmt: skip


def _several(paths: Sequence[Path], found: Sequence[Evidence]) -> tuple[str, list[str]]:
    """Return the title of a page about several runs, and the parts of the page as HTML."""
    console.print(f"comparing {len(paths)} runs; `headstart report RUN` is about one")
    result = compare(paths, found[0].stem)
    title = f"{len(paths)} runs on {found[0].scored}"
    return title, [f"<h1>{escaped(title)}</h1>", *comparison(result.rows, result.test, found[0].scored)]
