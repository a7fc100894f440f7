"""Working on many files at the same time, in threads."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from headstart.features.images.files.urls import THREADS

_AHEAD = 64  # tasks
_QUICK_SECONDS = 5e-5  # a known file on a near disk takes less; threads would only wait for Python's lock

Result = TypeVar("Result")


def in_threads(
    work: Callable[[np.ndarray], Result],
    positions: np.ndarray,
    size: int,
    remote: bool,
    at_end: Callable[[], object] = lambda: None,
) -> Iterator[tuple[np.ndarray, Result]]:
    """Cut `positions`, int64 [n], into pieces. Yield each piece in order, with the result of `work` for this piece.

    A piece has at most `size` positions. The calling thread does the first pieces. As soon as a piece takes long, other
    threads do the remaining pieces. If `remote` is true, there are more of these threads.

    `at_end` is called after the last piece. If an error or Ctrl-C stops the work after the other threads have begun,
    `at_end` is called, too. After the call of `at_end`, this function waits until the other threads have finished.
    """
    pieces = (positions[start : start + size] for start in range(0, len(positions), size))
    for piece in pieces:
        start = time.perf_counter()
        yield piece, work(piece)
        if time.perf_counter() - start > size * _QUICK_SECONDS:
            break  # files are read, or the disk is far away: threads save time
    pool = ThreadPoolExecutor(THREADS if remote else None)
    try:
        waiting = deque[tuple[np.ndarray, Future[Result]]]()
        for piece in pieces:
            waiting.append((piece, pool.submit(work, piece)))
            if len(waiting) > _AHEAD:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()
    finally:
        at_end()
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, nothing that waits is begun
