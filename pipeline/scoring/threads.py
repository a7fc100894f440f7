"""Run scikit-learn quietly, and on one thread."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """While the context is open, hide two warnings of scikit-learn that a user can do nothing about."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a model that has not converged is scored, too
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # few images of many classes
        yield


@contextmanager
def single_threaded() -> Iterator[None]:
    """While the context is open, hide the warnings that `quiet` hides, and limit matrix products to one thread.

    With several threads, products of small matrices took ten times as long, because threads wait for one another.
    """
    from threadpoolctl import threadpool_limits

    with quiet(), threadpool_limits(1):  # `quiet` imports the libraries that are limited
        yield
