"""The most confident mistakes with the nearest training images, and the examples on which only one model is right."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from headstart.features.errors import HeadstartError
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.predictions import Predictions
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.pages.html import escaped, isolated, more
from headstart.pipeline.pages.pictures import Pictures, picture
from headstart.pipeline.report.evidence import NAMES, Evidence
from headstart.pipeline.report.heat import heat_maps

SHOWN, CHANGED = 12, 8  # mistakes, and changed examples of each kind
_NEIGHBOURS = 4
_SEARCHED = 20_000  # training images among which neighbours are searched


@dataclass
class Gallery:
    """The examples that the report shows, and their pictures.

    The report shows the most confident mistakes, each with the nearest training images. A mistake of the fine-tuned
    classifier also has a heat map. The report also shows the examples that only the head gets right, and the examples
    that only the fine-tuned classifier gets right.
    """

    evidence: Evidence
    mistakes: list[int]  # positions in the predictions, the most confident first
    mended: list[int]  # positions of the examples that only the fine-tuned classifier gets right
    spoiled: list[int]  # positions of the examples that only the head gets right
    neighbours: dict[int, list[Example]] = field(default_factory=dict)  # by position
    maps: dict[str, str] = field(default_factory=dict)  # by digest
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    pictures: Pictures | None = None


def gallery(evidence: Evidence) -> Gallery:
    """Choose the examples to show, and make their pictures. If the images are missing, make no pictures."""
    found = evidence.predictions
    if not found:
        return Gallery(evidence, [], [], [])
    confidence, predicted = evidence.confidence(evidence.answering), evidence.predicted(evidence.answering)
    wrong = np.flatnonzero(predicted != found.labels)
    made = Gallery(evidence, wrong[np.argsort(-confidence[wrong], kind="stable")].tolist(), [], [])
    if evidence.comparable:
        head, tuned = (evidence.predicted(model) == found.labels for model in ("head", "finetuned"))
        made.mended, made.spoiled = np.flatnonzero(tuned & ~head).tolist(), np.flatnonzero(head & ~tuned).tolist()
    if evidence.data:
        _find_neighbours(made, found)
        _draw_maps(made, found, predicted)
        shown = [*made.mistakes[:SHOWN], *made.mended[:CHANGED], *made.spoiled[:CHANGED]]
        images = [evidence.examples[found.digests[at]].image for at in shown]
        near = [one.image for examples in made.neighbours.values() for one in examples]
        made.pictures = Pictures([*images, *near])
    return made


def _find_neighbours(made: Gallery, found: Predictions) -> None:
    data, trained = made.evidence.data, made.evidence.trained
    if not trained or not data or not made.mistakes:
        return
    train = list({one.image.digest: one for one in trained.of("train")}.values())
    searched = train[:: -(-len(train) // _SEARCHED)]
    if len(searched) < len(train):
        made.notes.append(f"Neighbours were searched among {len(searched):,} of {len(train):,} training images.")
    shown = made.mistakes[:SHOWN]
    queries = data.labelled([made.evidence.examples[found.digests[at]] for at in shown]).features
    nearest = Neighbours(trained.labelled(searched).features).nearest(queries, _NEIGHBOURS + 1)
    for at, rows in zip(shown, nearest.rows, strict=True):  # the image itself may be in train, and is no neighbour
        others = [searched[row] for row in rows if searched[row].image.digest != found.digests[at]]
        made.neighbours[at] = others[:_NEIGHBOURS]


def _draw_maps(made: Gallery, found: Predictions, predicted: np.ndarray) -> None:
    evidence, shown = made.evidence, made.mistakes[:SHOWN]
    if evidence.answering != "finetuned" or not evidence.data or not shown:
        return
    images = [evidence.examples[found.digests[at]].image for at in shown]
    try:
        made.maps = heat_maps(evidence.run, evidence.data, images, [int(predicted[at]) for at in shown])
    except HeadstartError as error:
        made.notes.append(f"Maps of the regions that decided are left out: {error}.")


def mistakes(made: Gallery) -> str:
    """Return HTML of the most confident mistakes, each with the nearest training images.

    A mistake of a fine-tuned classifier also has a heat map.
    """
    evidence = made.evidence
    found = evidence.predictions
    if not found:
        return ""
    if not made.mistakes:
        return "<p>There are none.</p>"
    confidence, predicted = evidence.confidence(evidence.answering), evidence.predicted(evidence.answering)
    cases = []
    for at in made.mistakes[:SHOWN]:
        answer = f"{isolated(found.class_names[predicted[at]])} ({confidence[at]:.4f})"
        figures = [_figure(made, at, f"labelled {isolated(found.class_names[found.labels[at]])}, answered {answer}")]
        if url := made.maps.get(found.digests[at]):
            drawn = picture(url, "regions of this image that spoke for the answer")
            figures.append(f"<figure>{drawn}<figcaption>what spoke for the answer</figcaption></figure>")
        near = _near(made, made.neighbours.get(at, ()))
        cases.append(f"<li class=case><div class=pair>{''.join(figures)}</div>{near}</li>")
    notes = "".join(f"<p class=more>{escaped(note)}</p>" for note in made.notes)
    return f"<ol class=cases>{''.join(cases)}</ol>{more(made.mistakes, SHOWN, 'mistakes')}{notes}"


def changed(made: Gallery) -> str:
    """Return HTML of two groups of examples.

    - mended by fine-tuning: only the fine-tuned classifier is right
    - spoiled by fine-tuning: only the head is right

    If the two models can't be compared, return an empty string; see `Evidence.comparable`.
    """
    if not made.evidence.comparable:
        return ""
    kinds = {"mended by fine-tuning": made.mended, "spoiled by fine-tuning": made.spoiled}
    return "".join(_kind(made, title, rows) for title, rows in kinds.items()) or "<p>No answer changed.</p>"


def _kind(made: Gallery, title: str, rows: Sequence[int]) -> str:
    found = made.evidence.predictions
    if not found or not rows:
        return ""
    names = found.class_names
    answers = {model: made.evidence.predicted(model) for model in made.evidence.models}

    def caption(at: int) -> str:
        told = ", ".join(f"{NAMES[model]} says {isolated(names[labels[at]])}" for model, labels in answers.items())
        return f"labelled {isolated(names[found.labels[at]])}; {told}"

    figures = "".join(_figure(made, at, caption(at)) for at in rows[:CHANGED])
    return f"<h3>{len(rows):,} {title}</h3><div class=group>{figures}</div>{more(rows, CHANGED)}"


def _figure(made: Gallery, at: int, caption: str) -> str:
    """Return an HTML figure for the image at position `at` in the predictions.

    The figure shows the caption and the path of the image. If the gallery `made` has pictures, the figure also shows
    the image.
    """
    found = made.evidence.predictions
    assert found
    path = f"<small>{isolated(_within(found.paths[at], made.evidence.run.config()['data']))}</small>"
    drawn = ""
    if made.pictures:
        label = found.class_names[found.labels[at]]
        drawn = made.pictures.html(made.evidence.examples[found.digests[at]].image, f"an image labelled {label}")
    return f"<figure>{drawn}<figcaption>{caption}<br>{path}</figcaption></figure>"


def _near(made: Gallery, examples: Sequence[Example]) -> str:
    trained = made.evidence.trained
    if not examples or not made.pictures or not trained:
        return ""
    figures = "".join(
        f"<figure>{made.pictures.html(one.image, f'a training image of {name}')}"
        f"<figcaption>{isolated(name)}</figcaption></figure>"
        for one in examples
        for name in [trained.class_names[one.label]]
    )
    title = "The training images nearest to it by features: it learnt this from these"
    return f"<div class=near><p>{title}</p><div>{figures}</div></div>"


def _within(path: str, data: str) -> str:
    """Return `path` relative to the folder `data`. A path outside this folder is returned unchanged."""
    return path.removeprefix(f"{data.rstrip(os.sep)}{os.sep}")
