"""The settings of prepare."""

from dataclasses import dataclass

from headstart.features.errors import OptionError
from headstart.pipeline.data.splits import SPLITS, TEST_FRACTION, VAL_FRACTION


@dataclass(frozen=True)
class PrepareConfig:
    """Fractions of the images that go to val and test; 0 makes no such split."""

    val: float = VAL_FRACTION
    test: float = TEST_FRACTION

    def __post_init__(self) -> None:
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise OptionError(
                f"--val and --test must be fractions that leave some to train. Received: {self.val} and {self.test}"
            )

    def splits(self) -> list[str]:
        """The splits that are asked for."""
        return [split for split in SPLITS if split == "train" or getattr(self, split) > 0]
