"""Draw the picture at the end of the demo. It shows test drawings, each with its predicted class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.features.files import written_atomically
from headstart.pipeline.evaluate.answers import calibrated
from headstart.pipeline.evaluate.predictions import read_predictions
from headstart.pipeline.runs import Run
from PIL import Image, ImageDraw, ImageFont, ImageOps

_COLUMNS, _ROWS = 6, 4
_TILE, _GAP, _CAPTION, _FRAME = 200, 16, 30, 6  # pixels
_MARGIN, _HEADING = 32, 128
_PAPER, _MAT, _INK, _PALE = "#fbfaf7", "#eeece6", "#22262b", "#6b727a"
_WRONG, _MENDED, _RIGHT = "#c8322b", "#c77700", "#d9d7d0"  # colours of frames


@dataclass(frozen=True)
class Guess:
    """The predictions of the head and of the fine-tuned classifier for one image."""

    path: str
    label: int  # the true class
    head: int  # the class that the head predicts
    predicted: int  # the class that the classifier predicts
    probability: float  # of `predicted`

    @property
    def colour(self) -> str:
        """Return the colour of the image's frame.

        There are three colours: one for wrong predictions, one for predictions that fine-tuning corrected, and one for
        predictions that the head already had right.
        """
        if self.predicted != self.label:
            return _WRONG
        return _RIGHT if self.head == self.label else _MENDED


def read_guesses(run: Run) -> list[Guess]:
    """Return the predictions on test that `evaluate` wrote, in the order in which the picture shows them.

    Wrong predictions come first, then predictions that fine-tuning corrected, then all others. Within each of these
    groups, the least certain predictions come first.
    """
    found = read_predictions(run, "test")
    # If no epoch was better than the head, there are no logits of the fine-tuned classifier.
    models = ("head", "finetuned" if "finetuned" in found.logits else "head")
    head, finetuned = (calibrated(run, model, found.logits[model]) for model in models)
    guesses = [
        Guess(path, label, int(first.argmax()), int(last.argmax()), float(last.max()))
        for path, label, first, last in zip(found.paths, found.labels.tolist(), head, finetuned, strict=True)
    ]
    order = (_WRONG, _MENDED, _RIGHT)
    return sorted(guesses, key=lambda guess: (order.index(guess.colour), guess.probability))


def draw_picture(file: Path, guesses: Sequence[Guess], class_names: Sequence[str], heading: Sequence[str]) -> None:
    """Write a PNG to `file`. It shows the lines of `heading`, and below them the first 24 of `guesses`."""
    shown = guesses[: _COLUMNS * _ROWS]
    rows = -(-len(shown) // _COLUMNS)
    width = 2 * _MARGIN + _COLUMNS * (_TILE + _GAP) - _GAP
    height = _MARGIN + _HEADING + rows * (_TILE + _CAPTION + _GAP) + _MARGIN // 2
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN - 8), heading[0], fill=_INK, font=ImageFont.load_default(26))
    for number, line in enumerate(heading[1:]):
        draw.text((_MARGIN, _MARGIN + 30 + 24 * number), line, fill=_PALE, font=ImageFont.load_default(18))
    _draw_legend(draw, width)
    for number, guess in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        corner = (_MARGIN + column * (_TILE + _GAP), _MARGIN + _HEADING + row * (_TILE + _CAPTION + _GAP))
        _draw_tile(picture, draw, corner, guess, class_names)
    with written_atomically(file) as partial:
        picture.save(partial, "PNG")


def _draw_legend(draw: ImageDraw.ImageDraw, width: int) -> None:
    font, x, y = ImageFont.load_default(16), _MARGIN, _MARGIN + _HEADING - 38
    for colour, meaning in (
        (_WRONG, "wrong"),
        (_MENDED, "right since fine-tuning"),
        (_RIGHT, "right; the least certain first"),
    ):
        draw.rectangle((x, y, x + 16, y + 16), fill=colour)
        draw.text((x + 24, y - 2), meaning, fill=_INK, font=font)
        x += 24 + int(draw.textlength(meaning, font)) + 28
    draw.line((_MARGIN, y + 27, width - _MARGIN, y + 27), fill=_RIGHT)


def _draw_tile(
    picture: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], guess: Guess, class_names: Sequence[str]
) -> None:
    """Draw one image in a square frame, and its predicted class below. The frame's top left corner is at `corner`."""
    x, y = corner
    with Image.open(guess.path) as drawing:
        upright = ImageOps.exif_transpose(drawing).convert("RGB")
    draw.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), fill=guess.colour)
    frame = _FRAME if guess.colour != _RIGHT else 1
    picture.paste(ImageOps.pad(upright, (_TILE - 2 * frame,) * 2, color=_MAT), (x + frame, y + frame))
    font = ImageFont.load_default(17)
    sure = "over 99.9%" if guess.probability > 0.999 else f"{guess.probability:.1%}"
    text = f"{class_names[guess.predicted]} {sure}"
    right = guess.colour == _RIGHT
    draw.text((x + 1, y + _TILE + 4), text, fill=_INK if right else guess.colour, font=font)
    if not right:
        note = f"is a {class_names[guess.label]}" if guess.colour == _WRONG else f"head: {class_names[guess.head]}"
        draw.text((x + _TILE - 1 - draw.textlength(note, font), y + _TILE + 4), note, fill=_PALE, font=font)
