"""A head from the user's own Keras code: `--head FILE.py:FUNCTION`, or a Python function.

The code runs when a head is trained. A run never needs the code again, because `head.keras` holds the layers. All
layers must be classes of Keras itself.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headstart.features.errors import OptionError
from headstart.pipeline.head.traced import why_no_graph, without_gradient

if TYPE_CHECKING:
    import keras

Build = Callable[[int, int], Any]
OWN_LAYERS = "own"  # name of the model that the function returned, within the head
_MOST_BYTES = 1 << 20  # of source
_MODULE = "headstart_own_head"
_PROBABILITIES = ("softmax", "sigmoid", "logsoftmax", "hardsigmoid", "logsigmoid", "sparsemax", "sparsesigmoid")


@dataclass(frozen=True)
class OwnHead:
    """A function that takes the number of features and the number of classes, and builds a head.

    The head is a Keras model that maps features, float32 [B, features], to logits, float32 [B, 1] (two classes) or [B,
    classes]. If the function was read from a file, any process can build the same head.
    """

    file: str  # as the user named it; for a Python function, the file that holds the function
    function: str
    digest: str  # SHA-256 of the source, and of the imported modules that lie beside the file
    source: str = field(default="", repr=False)  # of the whole file; empty if the head was read from a run
    given: Build | None = field(default=None, repr=False, compare=False)  # the function, if Python code gave it

    def __str__(self) -> str:
        return f"--head {self.file}:{self.function}"

    @classmethod
    def read(cls, text: str) -> OwnHead:
        """Return the head that `text` names. `text` has the form `FILE.py:FUNCTION`.

        The file is read, and no code runs. Raises OptionError if `text` has another form, or if the file is missing, is
        too large, or is not text.
        """
        name, _, function = text.rpartition(":")
        if not name or not function.isidentifier():
            raise OptionError(f"--head must be FILE.py:FUNCTION. Received: {text}")
        file = Path(name)
        try:
            if not file.is_file():
                why = "is a folder" if file.is_dir() else "no such file"
                raise OptionError(f"--head {text}: {name}: {why}; name a file with Python code")
            if file.stat().st_size > _MOST_BYTES:
                raise OptionError(f"--head {text}: {name} has more than {_MOST_BYTES} bytes")
            source = file.read_text("utf-8")
            digest = _digest(source, file.absolute().parent)
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--head {text}: {name} can't be read ({error})") from error
        return cls(name, function, digest, source)

    @classmethod
    def of(cls, function: Build) -> OwnHead:
        """Return the head that the Python function `function` builds. Only this process can build the head."""
        try:
            source, file = inspect.getsource(function), inspect.getsourcefile(function) or ""
        except (OSError, TypeError):  # typed into an interpreter
            source, file = "", ""
        name = getattr(function, "__name__", type(function).__name__)
        return cls(file, name, _digest(source) if source else "", given=function)

    def origin(self) -> dict[str, str]:
        """Return the fields that describe the head in a run's `config.json`.

        The fields are the Python file, the name of the function, and the digest of the source code.
        """
        return {"file": self.file, "function": self.function, "digest": self.digest}

    def build(self, features: int, classes: int) -> keras.Model:
        """Return the model that the user's function builds for the given numbers of features and classes.

        Raises OptionError if the user's file lacks the function, if the user's code fails, or if the model can't serve
        as a head. For example, a model that yields probabilities can't serve as a head. For the required shapes, see
        `OwnHead`. All layers must be classes of Keras itself.
        """
        with self._modules() as module:
            function = self.given or self._function(module)
            with self._told("the function"):
                model = function(features, classes)
        return _checked(model, str(self), features, classes)

    def require_code(self) -> None:
        """Run the user's file, and raise OptionError if the file fails or lacks the function.

        A head from a Python function has no file to run, so nothing is checked.
        """
        if not self.given:
            with self._modules() as module:
                self._function(module)

    def require_searchable(self, several: bool) -> None:
        """Raise OptionError if a search for a good head can't use this head.

        `several` says whether the search uses several processes. The user's file is run; see `require_code`.
        """
        if self.given and several:
            raise OptionError(f"{self}: other processes can't get a Python function; give FILE.py:FUNCTION, or one job")
        if not self.digest:
            raise OptionError(f"{self}: has no source by which a study knows it again; give FILE.py:FUNCTION")
        self.require_code()

    def _function(self, module: ModuleType) -> Build:
        if not self.source:
            raise OptionError(f"{self}: a run holds no code; name the file again")
        with self._told("the file"):
            exec(compile(self.source, self.file, "exec", dont_inherit=True), vars(module))
        found = vars(module).get(self.function)
        if found is None:
            names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
            raise OptionError(f"{self}: the file has no {self.function}; it has {', '.join(names) or 'no function'}")
        if not callable(found):
            raise OptionError(f"{self}: {self.function} is a {type(found).__name__}, and no function")
        build: Build = found
        return build

    @contextmanager
    def _modules(self) -> Iterator[ModuleType]:
        """Yield a new module for the user's code. `sys.modules` holds it until the context ends."""
        folder = Path(self.file).absolute().parent
        beside = set() if self.given else _beside(self.source, folder).keys()

        def taken() -> dict[str, ModuleType]:
            names = [name for name in sys.modules if name == _MODULE or name.partition(".")[0] in beside]
            own = [one for one in names if _lies_in(sys.modules[one], folder)]
            return {name: sys.modules.pop(name) for name in own}

        before = taken()  # so modules beside the file are imported anew
        module = ModuleType(_MODULE)
        module.__file__ = str(Path(self.file).absolute())
        sys.modules[_MODULE] = module
        try:
            yield module
        finally:
            taken()
            sys.modules.update(before)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn an error in the context into a one-line OptionError. The string `what` names the code that failed."""
        folder = str(Path(self.file).absolute().parent)
        sys.path.insert(0, folder)  # the code may import modules beside the file
        try:
            yield
        except (Exception, SystemExit) as error:
            own = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == self.file]
            line = own[-1] if own else getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            said = " ".join(str(error).split())[:300]
            raise OptionError(f"{self}: {what} raised {type(error).__name__}{where}: {said}") from error
        finally:
            if folder in sys.path:
                sys.path.remove(folder)


def _digest(source: str, folder: Path | None = None) -> str:
    """Return the SHA-256 of `source` together with the modules in `folder` that `source` imports."""
    beside = _beside(source, folder) if folder else {}
    return hashlib.sha256("".join([source, *(beside[name] for name in sorted(beside))]).encode()).hexdigest()


def _beside(source: str, folder: Path) -> dict[str, str]:
    """Return the modules in `folder` that `source` imports, directly or indirectly: a dict from name to source."""
    found: dict[str, str] = {}
    left = [source]
    while left:
        for name in _imported(left.pop()) - found.keys():
            files = [folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))]
            texts = [file.read_text("utf-8", errors="replace") for file in files if file.is_file()]
            if texts:
                found[name] = "".join(texts)
                left += texts
    return found


def _imported(source: str) -> set[str]:
    """Return the top-level names that `source` imports. Return an empty set if `source` is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).absolute().is_relative_to(folder)


def _checked(model: Any, head: str, features: int, classes: int) -> keras.Model:
    """Return `model` as a functional model. Raises OptionError if it can't serve as a head."""
    from headstart.features.tensorflow import keras

    if not isinstance(model, keras.Model):
        raise OptionError(f"{head}: returned {type(model).__name__}, and not a keras.Model")
    try:
        if isinstance(model, keras.Sequential) and not model.built:
            model.build((None, features))
        inputs, outputs = list(model.inputs), list(model.outputs)
    except (AttributeError, ValueError, TypeError) as error:
        raise OptionError(
            f"{head}: returned a {type(model).__name__} without a graph; make a Sequential or functional model"
        ) from error
    units = 1 if classes == 2 else classes
    taken = [(tuple(one.shape), str(one.dtype)) for one in inputs]
    if taken != [((None, features), "float32")]:
        raise OptionError(f"{head}: takes {_shown(taken)}; it must take float32 (None, {features})")
    yielded = [(tuple(one.shape), str(one.dtype)) for one in outputs]
    if yielded != [((None, units), "float32")]:
        logits = f"float32 (None, {units}), {'the logit of the second class' if units == 1 else 'a logit per class'}"
        raise OptionError(f"{head}: yields {_shown(yielded)} for {classes} classes; it must yield {logits}")
    if activation := _probabilities(outputs[0]):
        raise OptionError(
            f"{head}: its last layer has the activation {activation}; it must yield logits, so leave it out"
        )
    if not model.trainable_variables:
        raise OptionError(f"{head}: has no weights to train")
    if idle := without_gradient(model, features):
        raise OptionError(f"{head}: its weight {idle} has no gradient; set trainable=False, or let the output use it")
    plain = keras.Model(inputs[0], outputs[0], name=OWN_LAYERS)
    with warnings.catch_warnings(action="ignore"):  # Keras warns of a lambda, which is refused here
        config = keras.saving.serialize_keras_object(plain)
    if code := _code_in(config):
        raise OptionError(
            f"{head}: uses {code[:80]}, which is code of its own; a run loads without running code, so build the head "
            "from Keras's own layers and functions"
        )
    if fault := why_no_graph(plain, features):
        raise OptionError(f"{head}: TensorFlow can't train it ({fault}); change its layers or their names")
    return plain


def _probabilities(output: Any) -> str:
    """Return the name of the activation, such as "softmax", if `output` holds probabilities. For logits, return ""."""
    made, _, index = output._keras_history
    if hasattr(made, "outputs") and hasattr(made, "layers"):  # a nested model
        return _probabilities(made.outputs[index])
    activation = getattr(made, "activation", None)
    names = type(made).__name__, getattr(activation, "__name__", type(activation).__name__)
    return next((name for name in names if name.replace("_", "").lower() in _PROBABILITIES), "")


def _code_in(config: Any) -> str:
    """Search a serialised model for layers and functions that are not from Keras.

    Return the name of the first such layer or function. If there is none, return "".
    """
    if isinstance(config, dict):
        name = str(config.get("class_name", ""))
        if name == "__lambda__" or (name == "Lambda" and config.get("module") == "keras.layers"):
            return "a lambda"
        if name and "config" in config and not name.startswith("__"):
            if name == "function":
                return str(config["config"])
            if str(config.get("module")).split(".")[0] != "keras":
                return name
        # Keras keeps so the byte code of a lambda that serves as an activation, and the number of `Constant`.
        if config.keys() == {"value"} and not isinstance(config["value"], int | float):
            return "a lambda"
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list | tuple) else ()
    return next(filter(None, map(_code_in, parts)), "")


def _shown(tensors: list[tuple[tuple[int | None, ...], str]]) -> str:
    return ", ".join(f"{dtype} {shape}" for shape, dtype in tensors)[:160] or "nothing"
