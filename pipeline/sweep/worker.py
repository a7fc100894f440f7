"""Where a process of a search begins: this module imports no TensorFlow, whose import writes to standard error."""

import pickle

from headstart.features.terminal import silent_libraries


def begin(arguments: bytes) -> None:
    """Call `trials.serve` with what was pickled."""
    with silent_libraries():
        from headstart.pipeline.sweep.trials import serve

        unpickled = pickle.loads(arguments)
    serve(*unpickled)
