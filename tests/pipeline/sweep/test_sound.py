"""Databases of studies that are damaged, or come from elsewhere."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from headstart.features.config import FeatureConfig
from headstart.features.errors import StoreError
from headstart.pipeline.sweep.sound import require_no_other_database
from headstart.pipeline.sweep.space import CutChoice, Space
from headstart.pipeline.sweep.study import Study

CUTS = CutChoice.of(FeatureConfig())


def opened(path: Path) -> Study:
    return Study(path, Space({}, CUTS), "random", 0)


def finished(study: optuna.Study, **attributes: object) -> None:
    trial = study.ask()
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    study.tell(trial, 0.5)


GOOD = {"accuracy": 0.9, "best_epoch": 2}
ATTRIBUTES: dict[str, tuple[Callable[[optuna.Study], object], str]] = {
    "identity": (lambda study: study.set_user_attr("identity", [1]), "identity"),
    "reading": (lambda study: study.set_user_attr("reading", {"layout": "spiral"}), "reading"),
    "a new field": (lambda study: study.set_user_attr("reading", {"new": 1}), "reading.new"),
    "baselines": (lambda study: study.set_user_attr("baselines at x", 3), "baselines at x"),
    "accuracy": (lambda study: finished(study, **GOOD | {"accuracy": "high"}), "trial 0.accuracy"),
    "worker": (lambda study: finished(study, **GOOD, worker="../../x"), "trial 0: worker"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_another_form_are_named(tmp_path: Path, name: str) -> None:
    change, said = ATTRIBUTES[name]
    change(opened(tmp_path / "study.db").optuna)
    with pytest.raises(StoreError, match=said) as raised:
        opened(tmp_path / "study.db")
    assert len(str(raised.value)) < 500 + len(str(tmp_path))


def test_a_sound_study_is_opened_again(tmp_path: Path) -> None:
    finished(opened(tmp_path / "study.db").optuna, **GOOD, worker="a1")
    assert len(opened(tmp_path / "study.db").finished()) == 1


def test_other_databases_are_refused(tmp_path: Path) -> None:
    for name, statement in {
        "other": "CREATE TABLE trials (x)",
        "version": "CREATE TABLE version_info (version_info_id, schema_version, library_version)",
    }.items():
        with sqlite3.connect(tmp_path / name) as database:
            database.execute(statement)
        database.close()
        with pytest.raises(StoreError, match="can't be opened as a study"):
            opened(tmp_path / name)
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(StoreError, match="can't be opened as a study"):
        opened(tmp_path / "text")


def test_a_process_killed_within_a_transaction_leaves_a_study_that_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path)) as database:
        for table in ("studies", "trials", "version_info"):
            database.execute(f"CREATE TABLE {table} (text TEXT)")
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
        "for n in range(300): c.execute('INSERT INTO trials VALUES (?)', ('x' * 4000,))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert path.with_name("study.db-journal").stat().st_size
    require_no_other_database(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone() == (0,)
