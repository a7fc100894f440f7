"""Options by keyword, as configs."""

import numpy as np
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.library.options import made


def test_numbers_of_numpy_are_options() -> None:
    given = {"epochs": np.int64(3), "units": (np.int64(4),), "learning_rate": np.float64(0.5)}
    assert made(HeadConfig, given) == HeadConfig(epochs=3, units=(4,), learning_rate=0.5)
    assert made(HeadConfig, {"units": np.array([4, 5])}).units == (4, 5)
