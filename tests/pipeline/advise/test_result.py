"""What `headstart advise` says of its figures."""

from collections.abc import Sequence
from typing import Any

import pytest
from headstart.pipeline.advise.probe import Gain
from headstart.pipeline.advise.prospect import Prospect
from headstart.pipeline.advise.result import Advice, Candidate
from headstart.pipeline.scoring.simple_models import SimpleModels
from rich.console import Console

Figures = Sequence[tuple[str, float, float]]


def candidate(cut: str, right: float, loss: float) -> Candidate:
    return Candidate("net", cut, cut * 12, right, (right - 0.03, right + 0.03), right, (0.0, 1.0), loss, 0.0)


def made(figures: Figures = (("c", 0.9, 0.2), ("b", 0.92, 0.3), ("a", 0.6, 0.9)), **changes: Any) -> Advice:
    """Advice on candidates with these cuts, accuracies and losses."""
    settings: dict[str, Any] = {
        "data": "my photos",
        "images": 400,
        "candidates": [candidate(*one) for one in figures],
        "alike": 2,
        "by_default": False,
        "options": "--store=features",
        "confidence": 0.7,
        "guessing": SimpleModels("cat", 0.5, None),
        "gain_of_doubling": Gain(0.02, 0.01, 0.03),
        "prospect": Prospect("perhaps", 0.019, (0.0, 0.099), None, None),
        "similarity": None,
        "notes": [],
    }
    return Advice(**{**settings, **changes})


@pytest.mark.parametrize(
    ("advice", "says"),
    [
        (made(), "net at b is right on 2.0 points more, which is equal within chance, and its loss is higher (0.300, "),
        (made([("c", 0.9, 0.2), ("b", 0.89, 0.3)]), "1 other is equal to it within chance, with a higher loss."),
        (made([("c", 0.9, 0.2), ("a", 0.6, 0.3)], alike=1), "It is the most accurate."),
        (made(by_default=True), "No candidate is surely better, so it is the default cut."),
        (made([("c", 0.9, 0.2)]), "No other network or cut was judged"),
        (made(), "The chance that it is within a point of the best of 3 candidates is 70%."),
        (made(), "Perhaps fine-tune it: fine-tuning is expected to bring +1.9 points (0.0 to 9.9, by a rough rule)."),
        (made(), "always saying `cat` is right on 50.0%"),
        (made(), "the second half of them brought +2.0 points (1.0 to 3.0)"),
    ],
)
def test_reasons(advice: Advice, says: str) -> None:
    assert says in " ".join(advice.reasons())


def test_no_sentence_on_more_images_where_the_gain_may_be_none() -> None:
    assert "More images" not in " ".join(made(gain_of_doubling=Gain(0.07, -0.02, 0.16)).reasons())


def test_features_that_tell_nothing_recommend_nothing() -> None:
    advice = made([("c", 0.52, 0.9)], prospect=Prospect("unknown", 0.01, (0.0, 0.2), None, None))
    told = " ".join(map(str, advice.lines()))
    assert "No network or cut can be recommended" in told
    assert "not surely better than always saying `cat` (50.0%)" in told
    for never in ("Take ", "More images", "next: "):
        assert never not in told
    assert advice.fields()["recommendation"]["finetune"] is False


def test_the_table_marks_the_choice_and_shows_its_loss() -> None:
    lines = list(made().lines())
    console = Console(width=80)
    with console.capture() as printed:
        console.print(lines[1])
    rows = [line.split() for line in printed.get().splitlines()]
    assert rows[0].index("loss") == 4 + rows[0].count("95")
    assert [row[0] for row in rows[1:]] == ["*", "net", "net"]
    assert lines[-2:] == [
        "next: headstart head 'my photos' --run RUN --store=features",
        "next: headstart finetune RUN",
    ]
