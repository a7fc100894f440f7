"""When a trial is given up: it is worse than others after as many epochs, or has stopped getting better."""

from collections.abc import Sequence

import numpy as np
import optuna

_PATIENCE = 4  # epochs without a better loss on val
_RUNG_EXAMPLES, _LATEST_FIRST_RUNG = 4_000, 4


def first_rung(fold_sizes: Sequence[int]) -> int:
    """The first rung, in epochs (in folds under --folds): one epoch, or more where that is few training examples."""
    return 2 if len(fold_sizes) > 1 else min(-(-_RUNG_EXAMPLES // fold_sizes[0]), _LATEST_FIRST_RUNG)


def successive_halving(rung: int) -> optuna.pruners.BasePruner:
    """Keep a third of the heads after `rung` epochs or folds, and a third of those after 3 and 9 times as many.

    Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934.
    """
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=rung, reduction_factor=3)


class EpochPruner:
    """Decides after each epoch whether the training of a trial stops; `pruned` tells whether the pruner stopped it.

    It tells `trial` the best loss on val so far; None where trials are pruned by folds.
    """

    def __init__(self, trial: optuna.Trial | None) -> None:
        self.trial = trial
        self.pruned = False
        self._best, self._since = float("inf"), 0

    def __call__(self, epoch: int, row: dict[str, float]) -> bool:
        """Whether to stop after `epoch`, which counts from 1, with the metrics in `row`."""
        if row["val_loss"] < self._best:
            self._best, self._since = row["val_loss"], 0
        else:
            self._since += 1
        if self.trial is not None and np.isfinite(self._best):
            self.trial.report(self._best, epoch)
            self.pruned = self.trial.should_prune()
        return self.pruned or self._since >= _PATIENCE
