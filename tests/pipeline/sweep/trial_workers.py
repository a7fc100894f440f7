"""Workers of a search that die or differ. Ray's processes must be able to import them."""

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.pipeline.sweep import trials
from headstart.pipeline.sweep.trial_worker import ServedStudy, TrialWorker


class LethalWorker(TrialWorker):
    """Is killed by the head of the first trial."""

    def run(self, *search: Any) -> None:
        """Run trials until the first trial's head is met."""
        marked, run_trial = Path(os.environ["LETHAL"]), trials._run_trial

        def survived(study: Any, trial: Any, data: Any) -> None:
            study.space.suggest(trial)  # else it has no parameters yet
            if not marked.exists():
                marked.write_text(repr(sorted(trial.params.items())))
            if marked.read_text() == repr(sorted(trial.params.items())):
                os.kill(os.getpid(), signal.SIGKILL)
            run_trial(study, trial, data)

        trials._run_trial = survived
        super().run(*search)


class OldWorker(TrialWorker):
    """Has another version of headstart, if it is not the first of two."""

    def hello(self) -> str:
        """Return another version."""
        try:
            Path(os.environ["LETHAL"]).touch(exist_ok=False)
        except FileExistsError:
            return super().hello()
        return "0.0.1"


class FullWorker(TrialWorker):
    """Has no room for its files, if it is the first of two."""

    def run(self, *search: Any) -> None:
        """Run trials, or raise the error of a full disk."""
        with suppress(FileExistsError):
            Path(os.environ["LETHAL"]).touch(exist_ok=False)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp")
        super().run(*search)


class SlowWorker(TrialWorker):
    """Takes a second for each trial."""

    def run(self, *search: Any) -> None:
        """Run trials slowly."""
        claim = ServedStudy.claim

        def slow(self: ServedStudy, most: int) -> Any:
            found = claim(self, most)
            time.sleep(1.0)
            return found

        ServedStudy.claim = slow  # type: ignore[method-assign]
        super().run(*search)
