"""A column with few different values. It holds a list of the values and, for each row, an index into this list."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

Value = TypeVar("Value", bound=Hashable)
Other = TypeVar("Other", bound=Hashable)


class Coded(Sequence[Value], Generic[Value]):
    """A sequence of values, stored as a number for each row.

    A slice, a selection by positions and a selection by a mask are `Coded`, too. They keep all `values`.

    Args:
        codes: int32 [N]. For each row, the position of the row's value in the argument `values`.
        values: the different values. Some of them may occur in no row.
    """

    def __init__(self, codes: np.ndarray, values: Sequence[Value]) -> None:
        self.codes, self.values = codes.astype(np.int32, copy=False), values

    @classmethod
    def of(cls, values: Iterable[Value]) -> Coded[Value]:
        """Make a column of `values`. If `values` is a column already, it is returned unchanged."""
        if isinstance(values, Coded):
            return values
        code_of: dict[Value, int] = {}
        codes = array("i", (code_of.setdefault(value, len(code_of)) for value in values))
        return cls(np.frombuffer(codes, np.int32) if codes else np.zeros(0, np.int32), list(code_of))

    @classmethod
    def repeated(cls, value: Value, count: int) -> Coded[Value]:
        """Make a column of `count` rows, all with the same `value`."""
        return cls(np.zeros(count, np.int32), [value])

    def with_values(self, values: Sequence[Other]) -> Coded[Other]:
        """Return a copy of the column with other values: `values[i]` replaces `self.values[i]` in each row.

        Equal values in `values` become one value.
        """
        code_of: dict[Other, int] = {}
        codes = np.array([code_of.setdefault(value, len(code_of)) for value in values], np.int32)
        return Coded(codes[self.codes] if len(self) else self.codes, list(code_of))

    def used(self) -> list[Value]:
        """Return the different values that occur in at least one row."""
        return [self.values[code] for code in np.unique(self.codes).tolist()]

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, at: int) -> Value: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Coded[Value]: ...
    def __getitem__(self, at: int | slice | np.ndarray) -> Value | Coded[Value]:
        if isinstance(at, (slice, np.ndarray)):
            return Coded(self.codes[at], self.values)
        return self.values[int(self.codes[at])]

    def __iter__(self) -> Iterator[Value]:
        return map(self.values.__getitem__, self.codes.tolist())

    def positions(self) -> dict[Value, np.ndarray]:
        """Return, for each value, the positions of the rows that have this value: int64 [n], ascending.

        Values without rows are left out.
        """
        order = np.argsort(self.codes, kind="stable")
        codes, starts = np.unique(self.codes[order], return_index=True)
        parts = np.split(order, starts[1:]) if len(order) else []
        return {self.values[code]: part for code, part in zip(codes.tolist(), parts, strict=True)}

    def is_(self, value: Value) -> np.ndarray:
        """Return which rows have this `value`, bool [N]."""
        found: np.ndarray = self.codes == (self.values.index(value) if value in self.values else -1)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment] # as of a list


def _equal(one: object, other: object) -> bool:
    return one == other
