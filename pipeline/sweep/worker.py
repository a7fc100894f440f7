"""The entry point of worker processes. It must not import TensorFlow, whose import writes to standard error."""

import pickle

from headstart.features.terminal import silent_libraries


def run_pickled(call: bytes) -> None:
    """Call a pickled function with its pickled arguments. Unpickling imports modules, with standard error discarded."""
    with silent_libraries():
        function, arguments = pickle.loads(call)
    function(*arguments)
