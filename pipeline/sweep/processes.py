"""Run a search in this process, or in several worker processes that share one copy of the features on disk."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from headstart.features.config import ExtractionConfig
from headstart.features.device import cpu_count
from headstart.features.errors import HeadstartError
from headstart.features.tensorflow import tf
from headstart.features.terminal import console
from headstart.pipeline.memory.loading import full_disk_explained, scratch_place
from headstart.pipeline.scoring.baselines import Baseline
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import live_board
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trials import OF_MACHINE, POLL_SECONDS, SearchData, run_trials
from headstart.pipeline.sweep.worker import run_pickled


def search(
    study: Study,
    data: SearchData,
    config: SweepConfig,
    baselines: Sequence[Baseline] = (),
    extraction: ExtractionConfig | None = None,
) -> None:
    """Run trials until `config.trials` trials are finished, no trial is left, or the time `config.timeout` is over.

    Meanwhile, the best trials and `baselines` are shown. If `config.jobs` is over 1, several processes run trials, and
    read the features from scratch files. By default, the scratch files are in the folder of the study. If `extraction`
    is given, `scratch_place` chooses the folder. Raises HeadstartError if worker processes failed before the search was
    done. Raises OSError if there is no space for scratch files.
    """
    tf.get_logger().setLevel("ERROR")  # hides a warning that each head has a graph of its own
    until = time.time() + (config.timeout or float("inf"))
    with live_board(study, config.trials, baselines) as tick:
        if config.jobs == 1:
            run_trials(study, data, config.trials, until, tick)
            return
        with full_disk_explained("leave out --jobs"):
            beside = study.path.parent
            scratch = scratch_place(extraction, beside) if extraction else beside
            on_disk = replace(data, labelled=data.labelled.on_disk(scratch))
        _run_workers(study, on_disk, config, until, tick)


def _run_workers(study: Study, data: SearchData, config: SweepConfig, until: float, tick: Callable[[], None]) -> None:
    """Run the search in `config.jobs` processes.

    Raises HeadstartError if processes failed before the search was done.
    """
    call = pickle.dumps((run_worker, (study, data, config.trials, until, os.getpid())))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=run_pickled, args=(call,), daemon=True) for _ in range(config.jobs)]
    try:
        with _worker_environment(max(1, cpu_count() // config.jobs)):
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            tick()
            time.sleep(POLL_SECONDS)
    finally:
        for worker in workers:
            if worker.pid:
                worker.terminate()  # the next search repeats the trial of this worker
                worker.join()
    failed = [worker for worker in workers if worker.exitcode]
    if failed and len(study.finished()) < config.trials and time.time() < until:
        codes = ", ".join(str(worker.exitcode) for worker in failed)
        raise HeadstartError(
            f"--jobs {config.jobs}: {len(failed)} processes of the search failed (exit codes {codes}); what was "
            "finished is kept: repeat the command to go on, with fewer --jobs if memory was short"
        )


@contextmanager
def _worker_environment(threads: int) -> Iterator[None]:
    """While the context is open, new processes ignore Ctrl-C, and get a quiet TensorFlow with `threads` threads."""
    changed = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name in changed:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def run_worker(study: Study, data: SearchData, most: int, until: float, parent: int) -> None:
    """Run trials in a worker process until the number of finished trials reaches `most`, or until no trial is left.

    The finished trials of all processes count. No trial starts after the time `until`, in seconds since 1970. The
    worker also ends if the process with the ID `parent` is gone. The features of `data` are on disk. If a
    HeadstartError or one of the errors in `OF_MACHINE` is raised, the worker prints the error, and exits with status 1.
    """
    tf.get_logger().setLevel("ERROR")

    def leave_if_alone() -> None:
        if os.getppid() != parent:
            raise SystemExit

    try:
        with study.storage_errors_named():
            run_trials(study, data, most, until, leave_if_alone)
    except (HeadstartError, *OF_MACHINE) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        console.print(f"a process of the search failed: {said}", style="red")
        raise SystemExit(1) from error
