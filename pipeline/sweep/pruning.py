"""Two rules that stop a trial early.

A trial is pruned if it is not among the best trials after some epochs or folds. The training of a head ends if the head
no longer improves on val.
"""

import math
from collections.abc import Sequence

import optuna
from headstart.pipeline.head.loop import on_val
from headstart.pipeline.scoring.choosing import ChooseBy, rank

_PATIENCE = 4  # epochs that are not better on val
_RUNG_EXAMPLES, _LATEST_FIRST_RUNG = 4_000, 4


def successive_halving(training_sizes: Sequence[int]) -> optuna.pruners.BasePruner:
    """Return a pruner that compares the trials several times, and keeps the best third each time.

    `training_sizes` has the number of training examples of each fold. With several folds, trials are compared after 2,
    6, 18 folds, and so on. With one fold of 4000 or more training examples, trials are compared after 1, 3, 9 epochs.
    With fewer examples, the first comparison is later, after up to 4 epochs.

    Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934.
    """
    epochs = min(-(-_RUNG_EXAMPLES // training_sizes[0]), _LATEST_FIRST_RUNG)
    rung = epochs if len(training_sizes) == 1 else 2
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=rung, reduction_factor=3)


class EpochPruner:
    """Decides after each epoch whether the training of a head stops.

    The training stops in two cases:

    - `trial` is pruned. `pruned` is then true.
    - The head no longer improves on val. Epochs are compared by the figure that `choose_by` names; see `choosing.rank`.

    If trials are pruned after folds, not after epochs, `trial` is None, and the first case does not occur.
    """

    def __init__(self, trial: optuna.Trial | None, choose_by: ChooseBy = "loss") -> None:
        self.trial, self.choose_by = trial, choose_by
        self.pruned = False
        self._best, self._since = (math.inf, math.inf), 0

    def __call__(self, epoch: int, row: dict[str, float]) -> bool:
        """Return whether the training stops after `epoch`, which counts from 1. `row` has the metrics of the epoch."""
        if (ranked := rank(self.choose_by, on_val(row))) < self._best:
            self._best, self._since = ranked, 0
        else:
            self._since += 1
        if self.trial is not None and math.isfinite(self._best[0]):
            self.trial.report(self._best[0], epoch)
            self.pruned = self.trial.should_prune()
        return self.pruned or self._since >= _PATIENCE
