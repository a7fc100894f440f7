"""A column of texts of which most are equal: a list of the different texts, and a number for each row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

Text = TypeVar("Text", bound=str | None)


class Coded(Sequence[Text], Generic[Text]):
    """A sequence of texts. Slices, and selections by an array of positions or a mask, have the same `values`.

    Args:
        codes: int32 [N], the position of each text in `values`.
        values: different texts. Some may occur in no row.
    """

    def __init__(self, codes: np.ndarray, values: Sequence[Text]) -> None:
        self.codes, self.values = codes.astype(np.int32, copy=False), values

    @classmethod
    def of(cls, texts: Iterable[Text]) -> Coded[Text]:
        """Make a column of `texts`. A column is returned unchanged."""
        if isinstance(texts, Coded):
            return texts
        code_of: dict[Text, int] = {}
        codes = array("i", (code_of.setdefault(text, len(code_of)) for text in texts))
        return cls(np.frombuffer(codes, np.int32) if codes else np.zeros(0, np.int32), list(code_of))

    @classmethod
    def repeated(cls, text: Text, count: int) -> Coded[Text]:
        """Make a column of `count` times the same text."""
        return cls(np.zeros(count, np.int32), [text])

    def with_values(self, values: Sequence[Text]) -> Coded[Text]:
        """Return the column with other `values` in place of `self.values`. Equal ones become one."""
        code_of: dict[Text, int] = {}
        codes = np.array([code_of.setdefault(text, len(code_of)) for text in values], np.int32)
        return Coded(codes[self.codes] if len(self) else self.codes, list(code_of))

    def used(self) -> list[Text]:
        """Return the different texts that occur in some row."""
        return [self.values[code] for code in np.unique(self.codes).tolist()]

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, at: int) -> Text: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Coded[Text]: ...
    def __getitem__(self, at: int | slice | np.ndarray) -> Text | Coded[Text]:
        if isinstance(at, (slice, np.ndarray)):
            return Coded(self.codes[at], self.values)
        return self.values[int(self.codes[at])]

    def __iter__(self) -> Iterator[Text]:
        return map(self.values.__getitem__, self.codes.tolist())

    def is_(self, text: Text) -> np.ndarray:
        """Return which rows have this `text`, bool [N]."""
        found: np.ndarray = self.codes == (self.values.index(text) if text in self.values else -1)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment] # as of a list


def _equal(one: object, other: object) -> bool:
    return one == other
