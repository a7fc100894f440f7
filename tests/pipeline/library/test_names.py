"""The names of the library: the same at run time and for type checkers, in every order of import."""

import ast
import copy
import pickle
import subprocess
import sys
from pathlib import Path

import headstart
import pytest

_CALL = "; import inspect; assert 'backbone' in inspect.signature(headstart.features).parameters"


@pytest.mark.parametrize(
    "code",
    [
        "import headstart; f = headstart.features; import headstart.features.config as c; assert c.FeatureConfig",
        "import headstart.features.config; import headstart; f = headstart.features",
        "from headstart import features as f; import headstart; headstart.FeatureConfig",
        "import headstart.features as f; import headstart",
        "import headstart; headstart.train_head; from headstart.features import errors; f = headstart.features",
        "from headstart.pipeline.library.table import features; import headstart; f = headstart.features",
        "from headstart import *; import headstart; f = features",
        "import importlib, headstart; importlib.reload(headstart.features); f = headstart.features",
    ],
)
def test_features_is_the_package_and_the_function_in_every_order(code: str) -> None:
    told = f"{code}; assert callable(f) and f.__name__ == 'headstart.features' and f is headstart.features{_CALL}"
    told += "\ntry: f('absent-folder')\nexcept headstart.DataError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("absent-folder: no such folder\n", 0), done.stderr


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse(Path(headstart.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(one.names[0].asname, one.module) for one in block.body if isinstance(one, ast.ImportFrom)}
    assert seen == {(name, f"headstart.{module}") for name, module in headstart._MODULES.items()}
    assert {name for name, _ in seen} == set(headstart.__all__)
    assert len(block.body) == len(headstart.__all__)
    assert (Path(headstart.__file__).parent / "py.typed").is_file()


def test_every_public_name_is_described() -> None:
    for name in headstart.__all__:
        assert (getattr(headstart, name).__doc__ or "").strip(), name


def test_features_can_be_pickled_and_copied() -> None:
    assert pickle.loads(pickle.dumps(headstart.features)) is headstart.features
    assert copy.deepcopy(headstart.features) is headstart.features
