"""The section of the report that says how many images are needed. The number is a forecast from the run's own data."""

from headstart.features.errors import DataError
from headstart.pipeline.data.trainable import require_trainable
from headstart.pipeline.report.evidence import Evidence
from headstart.pipeline.study.config import StudyConfig
from headstart.pipeline.study.section import study_section
from headstart.pipeline.study.study import study_cached


def images_needed(evidence: Evidence) -> str:
    """Return a section of the report, as HTML. The section shows the result of `study_cached` for the run's own data.

    If the data are missing, or if `study_cached` can't use them, return an empty string.
    """
    cached = evidence.trained
    if cached is None:
        return ""
    try:
        require_trainable(cached.examples, cached.class_names, evidence.run.path)
        return study_section(study_cached(cached, StudyConfig(), evidence.run.config()["seed"]))
    except DataError as error:
        evidence.missing.append(f"how many images are needed: {error}")
        return ""
