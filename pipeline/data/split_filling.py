"""Move groups of images between splits, so that classes have images in every split."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

_Pair = tuple[int, str]  # a class and a split
_ORDER = ("train", "test", "val")
_DEPTH = 2  # a move may take the last group of a class from a split; then up to this many further moves follow in a row
_TRIED = 24  # most moves that are tried for one class and split
_MOST_TRIED = 20_000  # most moves that are tried in all, so that a hopeless search ends


def fill(
    splits: list[str],
    contents: Sequence[Mapping[int, int]],
    free: Sequence[bool],
    due: Collection[_Pair],
    wanted: Mapping[_Pair, int],
) -> None:
    """Try to move groups so that each pair (class, split) in `due` has a group. Changes `splits`.

    The number of moves that are tried is limited. A move that takes the last group of a class out of a split is tried
    last. Of all other moves, those that bring the sizes of splits nearest to `wanted` are tried first.

    Args:
        splits: the split of each group.
        contents: for each group, the number of images of each class.
        free: whether each group may be moved.
        due: the pairs (class, split) for which there should be a group.
        wanted: the number of images that each class should have in each split.
    """
    there = {(label, split) for content, split in zip(contents, splits, strict=True) for label in content}
    if there.issuperset(due):
        return
    filling = _Filling(splits, contents, free, due, wanted)
    for pair in sorted(filling.lacking(), key=lambda pair: (_ORDER.index(pair[1]), pair[0])):
        if not filling.groups[pair]:
            filling.cover(pair, _DEPTH)


class _Filling:
    def __init__(
        self,
        splits: list[str],
        contents: Sequence[Mapping[int, int]],
        free: Sequence[bool],
        due: Collection[_Pair],
        wanted: Mapping[_Pair, int],
    ) -> None:
        self._splits, self._contents, self._due, self._wanted = splits, contents, due, wanted
        self.groups: Counter[_Pair] = Counter()  # number of groups with images of a class, by (class, split)
        self._images: Counter[_Pair] = Counter()
        self._free: dict[int, list[int]] = defaultdict(list)  # groups that may be moved, by class
        for at, (content, split) in enumerate(zip(contents, splits, strict=True)):
            for label, count in content.items():
                self.groups[label, split] += 1
                self._images[label, split] += count
                if free[at]:
                    self._free[label].append(at)
        self._moves: list[tuple[int, str]] = []  # each group that was moved, and its split before
        self._left = _MOST_TRIED

    def lacking(self) -> list[_Pair]:
        """Return each pair (class, split) that should have a group and has none."""
        return [pair for pair in self._due if not self.groups[pair]]

    def cover(self, pair: _Pair, depth: int) -> bool:
        """Move a group of a class to a split, and fill the gaps that this leaves. If that fails, move nothing."""
        label, split = pair
        held = {at for at, _ in self._moves}
        ways = [at for at in self._free[label] if at not in held]
        ways = sorted(ways, key=lambda at: (len(self._needed(at)), self._cost(at, split)))[:_TRIED]
        mark = len(self._moves)
        for at in ways:
            needed = self._needed(at)
            self._left -= 1
            if self._left < 0 or (needed and not depth):
                break
            self._move(at, split)
            if all(self.groups[other] or self.cover(other, depth - 1) for other in needed):
                if depth == _DEPTH:
                    self._moves.clear()
                return True
            while len(self._moves) > mark:
                moved, before = self._moves.pop()
                self._place(moved, before)
        return False

    def _needed(self, at: int) -> list[_Pair]:
        """Return the pairs (class, split) that have only one group, the group with the index `at`.

        Pairs that are not in the argument `due` of `fill` are left out.
        """
        pairs = [(label, self._splits[at]) for label in self._contents[at]]
        return [pair for pair in pairs if pair in self._due and self.groups[pair] == 1]

    def _cost(self, at: int, split: str) -> int:
        """Return the change of the total deviation from `wanted`, in images, if group number `at` moves to `split`."""
        cost = 0
        for label, count in self._contents[at].items():
            for pair, change in (((label, self._splits[at]), -count), ((label, split), count)):
                off = self._images[pair] - self._wanted.get(pair, 0)
                cost += abs(off + change) - abs(off)
        return cost

    def _move(self, at: int, split: str) -> None:
        self._moves.append((at, self._splits[at]))
        self._place(at, split)

    def _place(self, at: int, split: str) -> None:
        for label, count in self._contents[at].items():
            for pair, sign in (((label, self._splits[at]), -1), ((label, split), 1)):
                self.groups[pair] += sign
                self._images[pair] += sign * count
        self._splits[at] = split
