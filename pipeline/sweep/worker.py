"""The entry point of a search's worker processes. It imports no TensorFlow, whose import writes to standard error."""

import pickle

from headstart.features.terminal import silent_libraries


def run_pickled(call: bytes) -> None:
    """Call a pickled function with its pickled arguments; unpickling it imports its module, silently."""
    with silent_libraries():
        function, arguments = pickle.loads(call)
    function(*arguments)
