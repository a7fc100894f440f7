"""`headstart sweep` and `headstart compare`: finding the best head, and telling whether it is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from headstart.features.config import FeatureConfig
from headstart.pipeline.commandline import Data, Json, Overwrite, Seed, announce_device, command, next_steps, show
from headstart.pipeline.sweep.config import SweepConfig

search = typer.Typer()


@command(search, kept="the finished trials are kept: repeat the command to go on")
def sweep(
    data: Data,
    study: Annotated[Path, typer.Option(help="SQLite file of the search, made or gone on with.", show_default=False)],
    run: Annotated[Path, typer.Option(help="Run folder that the winner becomes.", show_default=False)],
    features: FeatureConfig,
    config: SweepConfig,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Try many heads on cached features, and train the best on val again."""
    announce_device()
    from headstart.pipeline.sweep.leaderboard import board
    from headstart.pipeline.sweep.sweep import sweep

    result = sweep(data, study, run, features, config, overwrite, seed)
    fields = {
        "trials": result.trials,
        "pruned": result.pruned,
        "seconds": result.seconds,
        "best": result.best,
        "baselines": [asdict(one) for one in result.baselines],
        "run": result.run,
    }
    best = result.best
    lines: list[Any] = [
        board(result.finished, result.baselines),
        f"{result.trials} trials, {result.pruned} of them given up early; {result.seconds:.1f} s since this start",
        f"trial {best['trial']} has the lowest loss on val, {best['loss']:.4f} (accuracy {best['accuracy']:.4f}), "
        f"on {'+'.join(best['cuts'])}",
    ]
    if not best["beats_logistic_regression"]:
        lines.append("no head beats logistic regression on the same features, by the loss on val")
    several = len({name.rpartition("/")[0] for name in best["cuts"]}) > 1
    lines.append(f"the run is in {run}; next: {next_steps(run, several)}")
    lines.append(f"every trial: optuna-dashboard sqlite:///{study}, or tensorboard --logdir {study}.logs")
    show(fields, json, lines)


@command(search)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.", show_default=False)],
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Which examples.")] = "test",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Show runs side by side, and test whether the best two differ by more than chance."""
    from headstart.pipeline.evaluate.compare import compare

    result = compare(runs, split)
    show(result.fields(), json, result.lines())
