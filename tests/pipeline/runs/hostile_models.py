"""Models and weights files as an attacker or an accident might leave them. `CANARY` is made if code of a file runs."""

import base64
import json
import marshal
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

Make = Callable[[Path, Path, int], object]  # writes a file for a head of so many features; code in it makes the canary


def saved(build: Callable[[Any], Any], dtype: str = "float32") -> Make:
    """Save a functional model from features to the outputs that `build` returns."""

    def make(file: Path, canary: Path, width: int) -> None:
        features = keras.Input((width,), dtype=dtype)
        keras.Model(features, build(features)).save(file)

    return make


def head(**changes: bytes) -> Make:
    """Save a sound head, then replace members of the archive; b"" removes one."""

    def make(file: Path, canary: Path, width: int) -> None:
        saved(layers.Dense(1, name="logits"))(file, canary, width)
        rewrite(file, {name.replace("__", "."): data for name, data in changes.items()})

    return make


def rewrite(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file) as archive:
        found = {name: archive.read(name) for name in archive.namelist()} | members
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in found.items():
            if data:
                archive.writestr(name, data)


def configured(change: Callable[[dict[str, Any], Path], None]) -> Make:
    """Save a sound head, then change the configuration of its layer."""

    def make(file: Path, canary: Path, width: int) -> None:
        head()(file, canary, width)
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))
        change(config["config"]["layers"][1], canary)
        rewrite(file, {"config.json": json.dumps(config).encode()})

    return make


def weighted(change: Callable[[h5py.File, Path], object]) -> Make:
    """Save a sound head, then change its weights file."""

    def make(file: Path, canary: Path, width: int) -> None:
        head()(file, canary, width)
        weights = file.with_suffix(".h5")
        with zipfile.ZipFile(file) as archive:
            weights.write_bytes(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as opened:
            change(opened, file.parent)
        rewrite(file, {"model.weights.h5": weights.read_bytes()})
        weights.unlink()

    return make


def two_inputs(file: Path, canary: Path, width: int) -> None:
    inputs = [keras.Input((width,)) for _ in range(2)]
    keras.Model(inputs, layers.Dense(1)(layers.Add()(inputs))).save(file)


def unbuilt(file: Path, canary: Path, width: int) -> None:
    with warnings.catch_warnings(action="ignore"):
        keras.Sequential([layers.Dense(1)]).save(file)


def bytes_of(content: bytes) -> Make:
    return lambda file, canary, width: file.write_bytes(content)


def truncated(file: Path, canary: Path, width: int) -> None:
    head()(file, canary, width)
    file.write_bytes(file.read_bytes()[:-300])


def bomb(file: Path, canary: Path, width: int) -> None:
    head()(file, canary, width)
    rewrite(file, {"config.json": b"[" + b" " * (80 << 20) + b"]"}, zipfile.ZIP_DEFLATED)


def virtual(file: h5py.File, folder: Path) -> None:
    group = next(group for group in found_groups(file) if "0" in group)
    shape = group["0"].shape
    del group["0"]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape)
    group.create_virtual_dataset("0", layout)


def found_groups(file: h5py.File) -> list[h5py.Group]:
    groups: list[h5py.Group] = []
    file.visititems(lambda _, one: groups.append(one) if isinstance(one, h5py.Group) else None)
    return groups


def change_kernel(options: Callable[[tuple[int, ...], Path], dict[str, Any]]) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        group = next(group for group in found_groups(file) if "0" in group)
        shape = group["0"].shape
        del group["0"]
        group.create_dataset("0", **options(shape, folder))

    return change


def link_kernel(link: Callable[[Path], Any]) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        group = next(group for group in found_groups(file) if "0" in group)
        del group["0"]
        group["0"] = link(folder)

    return change


def loop(file: h5py.File, folder: Path) -> None:
    file["layers/again"] = file["/"]


EXTERNAL = change_kernel(
    lambda shape, folder: {
        "shape": shape,
        "dtype": "f4",
        "external": [(str(folder / "raw"), 0, 4 * int(np.prod(shape)))],
    }
)
LARGE = change_kernel(
    lambda shape, folder: {"shape": (1 << 38,), "dtype": "f4", "chunks": (1 << 20,), "compression": "gzip"}
)
UNFILLED = change_kernel(lambda shape, folder: {"shape": (1 << 20, 1 << 20), "dtype": "f4", "chunks": (1024, 1024)})
OTHER_SHAPE = change_kernel(lambda shape, folder: {"data": np.zeros((3, 3), "f4")})
TEXT = change_kernel(lambda shape, folder: {"data": np.full(shape, b"text")})
NOT_FINITE = change_kernel(lambda shape, folder: {"data": np.full(shape, np.nan, "f4")})
INFINITE = change_kernel(lambda shape, folder: {"data": np.full(shape, np.inf, "f4")})
LINK = link_kernel(lambda folder: h5py.ExternalLink(str(folder / "other.h5"), "x"))
SOFT_LINK = link_kernel(lambda folder: h5py.SoftLink("/layers"))


def units(count: int) -> Callable[[dict[str, Any], Path], None]:
    return lambda layer, canary: layer["config"].update(units=count)


def marshalled(layer: dict[str, Any], canary: Path) -> None:
    code = compile(f"open({str(canary)!r}, 'w')", "x", "eval")
    text = base64.b64encode(marshal.dumps((lambda: None).__code__.replace(co_code=code.co_code))).decode()
    function = {"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}}
    layer.update(class_name="Lambda", config={"name": "l", "function": function})


def activated(module: str, name: str) -> Callable[[dict[str, Any], Path], None]:
    function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
    return lambda layer, canary: layer["config"].update(activation=function)


def classed(module: str, name: str, **config: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(layer: dict[str, Any], canary: Path) -> None:
        layer.update(module=module, class_name=name, registered_name=name)
        layer["config"] = json.loads(json.dumps({"name": "x"} | config, default=lambda _: str(canary)))

    return change


HEADS: dict[str, Make] = {
    "weights that are NaN": weighted(NOT_FINITE),
    "weights that are infinite": weighted(INFINITE),
    "outputs that overflow": saved(lambda x: layers.Dense(1)(x * 1e38) * 1e38),
    "weights of another shape": weighted(OTHER_SHAPE),
    "weights of text": weighted(TEXT),
    "weights in another file": weighted(EXTERNAL),
    "weights behind an external link": weighted(LINK),
    "weights behind a soft link": weighted(SOFT_LINK),
    "virtual weights": weighted(virtual),
    "weights of a terabyte": weighted(LARGE),
    "unfilled weights of a terabyte": weighted(UNFILLED),
    "three outputs": saved(lambda x: [layers.Dense(1)(x) for _ in range(3)]),
    "two units for two classes": saved(layers.Dense(2)),
    "an output of rank 3": saved(lambda x: layers.Reshape((1, 1))(layers.Dense(1)(x))),
    "an output of integers": saved(lambda x: keras.ops.cast(layers.Dense(1)(x), "int32")),
    "an input of integers": saved(lambda x: layers.Dense(1)(keras.ops.cast(x, "float32")), "int32"),
    "another width": lambda file, canary, width: head()(file, canary, width + 1),
    "two inputs": two_inputs,
    "a model without a graph": unbuilt,
    "a billion units": configured(units(10**9)),
    "1e15 units": configured(units(10**15)),
    "units below zero": configured(units(-1)),
    "a Lambda": configured(marshalled),
    "a function of a module": configured(activated("os", "system")),
    "a download as activation": configured(activated("keras.utils", "get_file")),
    "a TFSMLayer": configured(classed("keras.layers", "TFSMLayer", filepath=...)),
    "a lookup of a file": configured(classed("keras.layers", "StringLookup", vocabulary=...)),
    "a class of elsewhere": configured(classed("subprocess", "Popen", args=["touch", ...])),
    "a zip bomb": bomb,
    "config is deep": head(config__json=b"[" * 100_000 + b"]" * 100_000),
    "config is a list": head(config__json=b"[1]"),
    "without weights": head(model__weights__h5=b""),
    "without config": head(config__json=b""),
    "a member outside": lambda file, canary, width: (head()(file, canary, width), rewrite(file, {"../outside": b"x"})),
    "cut off": truncated,
    "empty": bytes_of(b""),
    "text": bytes_of(b"hello"),
}  # fmt: skip


def pixels(build: Callable[[Any], Any], shape: tuple[int | None, ...] = (64, 64, 3), dtype: str = "uint8") -> Make:
    """Save a classifier."""

    def make(file: Path, canary: Path, width: int) -> None:
        image = keras.Input(shape, dtype=dtype)
        x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
        keras.Model(image, build(x)).save(file)

    return make


CLASSIFIERS: dict[str, Make] = {
    "of another size": pixels(layers.Dense(1), (32, 32, 3)),
    "of one channel": pixels(layers.Dense(1), (64, 64, 1)),
    "of floats": pixels(layers.Dense(1), dtype="float32"),
    "of three classes": pixels(layers.Dense(3)),
    "with two outputs": pixels(lambda x: [layers.Dense(1)(x), layers.Dense(1)(x)]),
    "that is a head": head(),
    "that is text": bytes_of(b"hello"),
    "that overflows": pixels(lambda x: layers.Dense(1, kernel_initializer="ones")(x * 3e38) * 1e10),
}


def kernels(change: Callable[[h5py.File, Path], object]) -> Callable[[Path], object]:
    def apply(file: Path) -> None:
        with h5py.File(file, "a") as opened:
            change(opened, file.parent)

    return apply


def deep(file: h5py.File, folder: Path) -> None:
    group = file
    for _ in range(2000):
        group = group.create_group("g")


def number(file: h5py.File, folder: Path) -> None:
    del file["layers"]
    file["layers"] = 1


def rewritten(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


WEIGHTS: dict[str, Callable[[Path], object]] = {  # each changes a sound `.weights.h5`
    "NaN": kernels(NOT_FINITE),
    "infinite": kernels(INFINITE),
    "another shape": kernels(OTHER_SHAPE),
    "text as numbers": kernels(TEXT),
    "external storage": kernels(EXTERNAL),
    "an external link": kernels(LINK),
    "a soft link": kernels(SOFT_LINK),
    "virtual": kernels(virtual),
    "a terabyte": kernels(LARGE),
    "an unfilled terabyte": kernels(UNFILLED),
    "a group in itself": kernels(loop),
    "deep groups": kernels(deep),
    "no layers": kernels(lambda file, folder: file.__delitem__("layers")),
    "a number for layers": kernels(number),
    "old layer names": kernels(lambda file, folder: file.attrs.update(layer_names=[b"x"])),
    "old layer names of numbers": kernels(lambda file, folder: file.attrs.update(layer_names=1)),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "flipped bytes": lambda file: file.write_bytes(bytes(255 - byte for byte in file.read_bytes()[:4096])),
    "empty": rewritten(b""),
    "text": rewritten(b"hello"),
    "only the signature": rewritten(b"\x89HDF\r\n\x1a\n"),
}  # fmt: skip
