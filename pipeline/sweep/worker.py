"""The entry point of worker processes. It must not import TensorFlow, whose import writes to standard error."""

import pickle

from headstart.features.terminal import silent_libraries


def run_pickled(call: bytes) -> None:
    """Unpickle `call`, a pair of a function and its arguments, and call the function.

    Unpickling imports modules. Standard error is discarded during these imports.
    """
    with silent_libraries():
        function, arguments = pickle.loads(call)
    function(*arguments)
