"""The settings of `evaluate`."""

from typing import Literal

AskedSplit = Literal["auto", "train", "val", "test", "all"]
Sort = Literal["data", "mistakes"]
