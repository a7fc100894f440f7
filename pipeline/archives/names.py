"""Guess the encoding of the names in a zip, and make paths with slashes from the names in an archive.

A zip marks names that are in UTF-8. Other names have the encoding of the computer that made the zip. The zip does not
record this encoding.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from headstart.features.errors import OptionError

_SAMPLE = 5000  # at most this many names are decoded to compare encodings
_WORD = re.compile(r"[^\W\d_]+")
_ROOT = re.compile(r"([A-Za-z]:)?/+")
_RUSSIAN = frozenset("оеаинтсрвлкмдпуязбгч")  # nine letters of ten in a text
_LATIN_1 = re.compile(r"[\u00c0-\u00ff\u0152\u0153\u0160\u0161\u017d\u017e\u0178]")


def _latin(word: str) -> float:
    """Return how plausible a word is in a Western language: a number in [0, 1].

    The number is computed from the share of Western letters.
    """
    # Some codes are capitals in cp850 and small letters in cp1252.
    foreign = sum(not letter.isascii() for letter in word)
    known = sum(0.9 if letter.isupper() else 1.0 for letter in _LATIN_1.findall(word))
    return known / foreign * (1 if 2 * foreign <= len(word) else 0.25)


def _russian(word: str) -> float:
    """Return the fraction of a word's letters that are common in Russian.

    Return 0 if a letter after the first is a capital.
    """
    return sum(letter in _RUSSIAN for letter in word.lower()) / len(word) if word[1:] == word[1:].lower() else 0.0


def _japanese(word: str) -> float:
    """Return the fraction of a word's non-ASCII letters that are hiragana, full-width katakana or JIS level 1 kanji."""
    codes = [letter.encode("cp932") for letter in word if not letter.isascii()]
    return sum(b"\x82\x9f" <= code <= b"\x83\x96" or b"\x88\x9f" <= code <= b"\x98\x72" for code in codes) / len(codes)


def _chinese(word: str) -> float:
    """Return the fraction of a word's non-ASCII letters that are hanzi of GB 2312's first level."""
    codes = [letter.encode("gbk") for letter in word if not letter.isascii()]
    return sum(b"\xb0\xa1" <= code <= b"\xd7\xf9" and code[1] > 0xA0 for code in codes) / len(codes)


# Of equally plausible encodings, the first is chosen. The zip format prescribes cp437.
_CANDIDATES: dict[str, Callable[[str], float]] = {
    "cp932": _japanese,
    "gbk": _chinese,
    "cp437": _latin,
    "cp850": _latin,
    "cp1252": _latin,
    "cp866": _russian,
    "cp1251": _russian,
}
_FALLBACK = "cp437"


def guess_encoding(names: Collection[bytes]) -> str:
    """Guess the encoding of `names`.

    The result is the first of these that applies:

    - `utf-8`, if it decodes all names.
    - The encoding whose words have the highest mean plausibility, if this mean is above 0. Only the encodings in
      `_CANDIDATES` that decode all names are compared.
    - `cp437`.
    """
    foreign = [name for name in names if not name.isascii()]
    if _all_decode(foreign, "utf-8"):
        return "utf-8"
    scores = {
        encoding: _plausibility(foreign[:_SAMPLE], encoding, judge)
        for encoding, judge in _CANDIDATES.items()
        if _all_decode(foreign, encoding)
    }
    best = max(scores, key=lambda encoding: scores[encoding])  # the first of equal ones
    return best if scores[best] else _FALLBACK


def require_encoding(name: str, names: Collection[bytes], archive: str) -> str:
    """Raise an OptionError unless `name` is an encoding that decodes all `names`. Return `name`.

    `name` is the value of `--zip-encoding`. `archive` is the name of the zip, for the message.
    """
    try:
        b"ab".decode(name)  # `codecs.lookup` would also accept codecs that are not for text
    except (LookupError, ValueError) as error:
        raise OptionError(
            f"--zip-encoding {name}: no encoding of text; give one such as cp932, gbk or cp866"
        ) from error
    for raw in names:
        try:
            raw.decode(name).encode(errors="surrogateescape")  # utf-7 can give text that is no file's name
        except ValueError as error:
            raise OptionError(
                f"--zip-encoding {name}: does not fit {archive}, in which a name is {raw!r}; leave the option out, and "
                "headstart guesses"
            ) from error
    return name


def _all_decode(names: Collection[bytes], encoding: str) -> bool:
    try:
        for name in names:
            name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _plausibility(names: Collection[bytes], encoding: str, judge: Callable[[str], float]) -> float:
    """Decode `names`, and return the mean plausibility of the words with non-ASCII letters, in [0, 1]."""
    text = "\n".join(dict.fromkeys(part for name in names for part in re.split(r"[/\\]", name.decode(encoding))))
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    signs = sum(not (letter.isascii() or letter.isalpha()) for letter in text)  # count as implausible words
    return sum(map(judge, words)) / (len(words) + signs) if words else 0.0


class Paths(NamedTuple):
    """The names in an archive, as relative paths, and notes to the user about unusual names."""

    names: list[str]
    notes: list[str]


def as_paths(names: Sequence[str], windows: Sequence[bool]) -> Paths:
    """Convert `names` to paths with slashes, and remove a root such as `C:/` or `/` that all names share.

    `windows` says for each name whether a program for Windows wrote the name. In the names that such a program wrote,
    backslashes become slashes. If such a program wrote none of the names, backslashes become slashes only if every name
    has a backslash and no name has a slash.
    """
    notes = []
    if names and not any(windows) and all("\\" in name and "/" not in name for name in names):
        windows = [True] * len(names)
        notes.append("backslashes are read as slashes, as every name has one")
    slashed = (name.replace("\\", "/") if foreign else name for name, foreign in zip(names, windows, strict=True))
    paths = list(map(_plain, slashed))
    roots = {match[0] if (match := _ROOT.match(path)) else "" for path in paths}
    if len(roots) == 1 and (root := roots.pop()):
        paths = [path.removeprefix(root) for path in paths]
        notes.append(f"all names begin with {root}, which is left out")
    counts: dict[str, int] = {}
    for path in paths:
        form = path if path.isascii() else unicodedata.normalize("NFC", path)
        counts[form] = counts.get(form, 0) + 1
    several = [path for path, count in counts.items() if count > 1 and not path.endswith("/")]
    if several:
        notes.append(f"{len(several)} names belong to more than one file each, {several[0]!r} the first; all are read")
    return Paths(paths, notes)


def _plain(path: str) -> str:
    """Return a path without its empty parts and its `.` parts. The slash at the end of a folder's path stays."""
    root = match[0] if (match := _ROOT.match(path)) else ""
    parts = [part for part in path[len(root) :].split("/") if part not in ("", ".")]
    return root + "/".join(parts) + "/" * (path.endswith("/") and bool(parts))


def leads_out(name: str) -> bool:
    """Whether a name is invalid as a path, or leads out of its archive, as `../a.jpg`, `/a.jpg` and `C:/a.jpg` do."""
    return not name or "\0" in name or _ROOT.match(name) is not None or ".." in name.split("/")
