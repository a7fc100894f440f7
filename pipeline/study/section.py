"""A study as a section of an HTML page."""

from headstart.pipeline.pages.charts import SERIES, chart
from headstart.pipeline.pages.html import items
from headstart.pipeline.scoring.choosing import titled
from headstart.pipeline.study.chart import drawing
from headstart.pipeline.study.forecast import LEVEL
from headstart.pipeline.study.result import StudyResult


def study_section(result: StudyResult) -> str:
    """Return the study as HTML: a chart and sentences, without a heading."""
    name, first, last = titled(result.metric), result.sizes[0], result.sizes[-1]
    alt = (
        f"Learning curve: {name} {first.figure.value:.3f} with {first.images:,} images, {last.figure.value:.3f} with "
        f"{last.images:,}; expected " + ", ".join(f"{at.figure.value:.3f} with {at.images:,}" for at in result.forecast)
    )
    title = f"{name} by the number of training images, with intervals at {LEVEL:.0%}".replace("%", " %")
    drawn = chart(drawing(result, SERIES[0], SERIES[1]), title, alt)
    told = [*result.notes, *result.sentences()] if result.few_val else [*result.sentences(), *result.notes]
    return drawn + items(told, "facts")
