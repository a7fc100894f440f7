"""Write likely label errors as one HTML page that needs no other file, no script and no network."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from headstart.pipeline.data.examples import Example
from headstart.pipeline.labels.result import FoundLabels, Suspect
from headstart.pipeline.pages.html import escaped, isolated, items, more, write_html
from headstart.pipeline.pages.pictures import Pictures

SHOWN = 100  # at most this many likely label errors have thumbnails
CONFLICTS, FILES = 40, 8  # at most this many groups with different labels, and images of each


def write_page(found: FoundLabels, path: Path) -> None:
    """Write the page to `path`: likely label errors with their neighbours, and copies with different labels."""
    issues = found.issues[:SHOWN]
    groups = [group[:FILES] for group in found.conflicts[:CONFLICTS]]
    suspects = chain(issues, *groups)
    neighbours = (one for issue in issues for one in found.agreeing[issue.name])
    pictures = Pictures(one.image for one in chain((suspect.example for suspect in suspects), neighbours))
    body = [f"<h1>Labels of {isolated(found.data)}</h1>", f"<p class=summary>{escaped(found.told())}</p>"]
    body += [items(found.reading, "reading")]
    body += [f"<h2>{len(found.issues):,} likely label errors</h2>" if issues else ""]
    body += [
        "<p>The score is the probability of the given label, by models that did not see the image. Beside each "
        "image are its nearest neighbours by features that have the suggested label.</p>"
        if issues
        else ""
    ]
    body += [_issue(issue, found.agreeing[issue.name], pictures) for issue in issues]
    body += [more(found.issues, SHOWN, "in the CSV file")]
    body += [f"<h2>{escaped(found.told_conflicts())}</h2>" if groups else ""]
    body += [f"<div class=group>{''.join(_figure(one, pictures) for one in group)}</div>" for group in groups]
    body += [more(found.conflicts, CONFLICTS)]
    write_html(path, f"Labels of {found.data}", body)


def _issue(issue: Suspect, neighbours: Sequence[Example], pictures: Pictures) -> str:
    beside = "".join(
        f"<figure>{pictures.html(one.image, f'a neighbour, {issue.suggested}')}"
        f"<figcaption>{isolated(issue.suggested)}</figcaption></figure>"
        for one in neighbours
    )
    return f"<div class=group>{_figure(issue, pictures)}{beside}</div>"


def _figure(one: Suspect, pictures: Pictures) -> str:
    perhaps = f", perhaps <b>{isolated(one.suggested)}</b>" if one.suggested else ""
    caption = f"<b>{isolated(one.label)}</b>{perhaps}, score {one.score:.3f}"
    conflict = f"<br>conflict {one.conflict}: a copy has another label" if one.conflict else ""
    picture = pictures.html(
        one.example.image, f"labelled {one.label}" + (f", perhaps {one.suggested}" if one.suggested else "")
    )
    return f"<figure>{picture}<figcaption>{caption}{conflict}<br>{isolated(one.name)}</figcaption></figure>"
