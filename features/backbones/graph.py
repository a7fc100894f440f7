"""Reading a Keras model's graph: the ends of its blocks, the start of its last stage, and the cost of its layers.

An *operation* is a node of the graph: a layer, or a function such as the sum that `x + y` makes. `model.operations`
lists all operations. An operation comes after the operations whose outputs it reads. For most networks, the list equals
`model.layers`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from headstart.features.tensorflow import keras

_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU)
_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_DOWNSAMPLES = 0.6  # an output with less than this share of the input's height has passed a stride of 2 or more
TOP = "top_activation"  # the cut at the end of a network for whose last layer Keras made up a name


@dataclass(frozen=True)
class Graph:
    """The operations of a functional model, and the connections between them."""

    operations: Sequence[Any]
    readers: Sequence[Sequence[int]]  # for each operation, the indices of those that read its output
    alone: Sequence[bool]  # for each operation, whether all later ones read only its output or later outputs

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of the output of the operation at `index`, without the batch axis."""
        return tuple(self.operations[index].output.shape[1:])

    def merges(self, index: int) -> bool:
        """Return whether the operation at `index` has several input tensors and is not a multiplication."""
        operation = self.operations[index]
        return len(keras.tree.flatten(operation.input)) > 1 and type(operation).__name__ != "Multiply"

    def gates(self, index: int) -> bool:
        """Return whether the output of the operation at `index` is used only by a gate.

        A gate multiplies a tensor by a factor that is computed from this tensor, as in squeeze-and-excitation
        (arXiv:1709.01507).
        """
        joined = next((later for later in range(index + 1, len(self.alone)) if self.alone[later]), index)
        return type(self.operations[joined]).__name__ == "Multiply" and joined in self.readers[index]


def read_graph(model: keras.Model) -> Graph | None:
    """Return the graph of `model`, or None.

    The result is None if an operation is used twice or has several outputs, because its index would then not identify
    one tensor. The result is also None if the last operation does not make the model's output.
    """
    operations = model.operations
    outputs = [operation.output for operation in operations]
    if not uses_layers_once(model) or outputs[-1] is not model.output:
        return None
    inputs = [{id(tensor) for tensor in keras.tree.flatten(operation.input)} for operation in operations]
    made_by = {id(output): index for index, output in enumerate(outputs)}
    readers: list[list[int]] = [[] for _ in operations]
    for index, tensors in enumerate(inputs):
        for tensor in tensors - {id(outputs[index])}:  # Keras gives an input layer its output as its input
            readers[made_by[tensor]].append(index)
    alone, reach = [], 0  # `reach`: the last reader of all outputs made before
    for index, reading in enumerate(readers):
        alone.append(reach <= index)
        reach = max(reach, *reading, index)
    return Graph(operations, readers, alone)


def uses_layers_once(model: keras.Model) -> bool:
    """Return whether each operation of `model` is used once and has one output, `operation.output`."""
    made = {id(operation.output) for operation in model.operations}  # of the first use, if a layer is used twice
    read = [operation.input for operation in model.operations]
    return all(id(tensor) in made for tensor in keras.tree.flatten([read, model.outputs]))


def block_ends(graph: Graph) -> list[int]:
    """Return the indices of the operations that end a block, lowest first. The last index is the network's output.

    An operation can end a block only if every connection from earlier to later operations leads through it. Of these
    operations, the following end a block:

    - An operation that joins branches, such as the concatenation of an Inception block or the sum of a residual block.
      If the only reader of its output is an activation, the activation ends the block.
    - A batch normalisation whose output is read by a convolution and by no activation: the linear bottleneck of
      MobileNetV2 (arXiv:1801.04381).
    - An operation that comes after a convolution and feeds several branches, such as the pooling between the blocks of
      DenseNet (arXiv:1608.06993).
    - The last operation of the network. Normalisation and activation at the end of the network belong to the last
      block.

    The first block includes the stem. A network without branches, such as VGG, has one block per resolution.
    """
    count, output = len(graph.operations), len(graph.operations) - 1
    single = [index for index in range(1, count) if graph.alone[index]]
    if not any(graph.merges(index) for index in single):
        ends = _stage_ends(graph, single)
    else:
        ends = []
        for index in single:
            last = _with_activation(graph, index) if graph.merges(index) else index
            convolved = any(has_kernel(graph.operations[at]) for at in range(ends[-1] + 1 if ends else 0, last + 1))
            branches = ends and len(graph.readers[index]) > 1 and not graph.gates(index)
            if convolved and (graph.merges(index) or _is_bottleneck(graph, index) or branches):
                ends.append(last)
    while ends and not any(has_kernel(graph.operations[at]) for at in range(ends[-1] + 1, count)):
        ends.pop()
    return [*ends, output]


def cut_indices(
    model: keras.Model, stable_names: bool = False, renamed: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return a mapping from the name of each cut of `model` to the index of the cut's operation, sorted by index.

    The network's output is always a cut. The end of a block is a cut if its output is a feature map, [H, W, D]. In a
    model whose graph can't be read, only the network's output is a cut.

    Args:
        stable_names: whether blocks may be named by their layers. True for a model from a file, whose layers have the
            same names in every process. Otherwise, blocks get numbers in place of names that Keras made up.
        renamed: maps the name of a cut in the graph to the name that the cut gets instead.
    """
    graph = read_graph(model)
    if graph is None:
        return {model.operations[-1].name: len(model.operations) - 1}
    ends = block_ends(graph)
    maps = [index for index in ends if len(graph.shape(index)) == 3]
    named = _named(graph, [*maps, *([] if ends[-1] in maps else ends[-1:])], stable_names)
    return {(renamed or {}).get(name, name): index for name, index in named.items()}


def _named(graph: Graph, ends: Sequence[int], stable: bool) -> dict[str, int]:
    """Return a dict from each block's name to the index of the block's last operation.

    A block is named after this operation. If `stable` is false, a name that Keras made up is replaced.
    """
    names: dict[str, int] = {}
    for start, end in pairwise([0, *ends]):
        name = graph.operations[end].name
        if not stable and _is_numbered(graph.operations[end]):
            own = [one.name for one in graph.operations[start + 1 : end] if not _is_numbered(one)]
            block = _common_start(own[-2:]) or f"block{len(names) + 1}"
            at_top = end == len(graph.operations) - 1 and isinstance(graph.operations[end], _ACTIVATIONS)
            name = TOP if at_top else block
        names[name if name not in names else f"{name}_{end}"] = end
    return names


def output_of(model: keras.Model, index: int) -> keras.KerasTensor:
    """Return the output tensor of the operation at `index` in `model.operations`."""
    return model.output if index == len(model.operations) - 1 else model.operations[index].output


def last_stage(model: keras.Model) -> int:
    """Return the index of the first operation of the last stage.

    Usually, the last stage consists of the blocks whose outputs have the lowest resolution, without the first of these
    blocks. For example, the output of `mixed8` in InceptionV3 is the first with the lowest resolution. The last stage
    consists of the two blocks after `mixed8`.

    If most blocks, and at least three, have the lowest resolution, the last stage is the last quarter of all blocks. If
    `read_graph` returns None, the last stage begins at the last operation with a kernel.
    """
    graph = read_graph(model)
    last_kernel = max((index for index, one in enumerate(model.operations) if has_kernel(one)), default=1)
    if graph is None:
        return last_kernel
    ends = block_ends(graph)
    resolution = graph.shape(ends[-1])[:-1]
    if len(ends) == 1:
        same = (index for index in range(1, ends[0] + 1) if graph.shape(index)[:-1] == resolution)
        return min(next(same), last_kernel)
    at_last = [number for number, end in enumerate(ends) if graph.shape(end)[:-1] == resolution]
    first = min(at_last[0], len(ends) - 2)
    if len(at_last) > max(2, len(ends) / 2):
        first = len(ends) - 1 - math.ceil(len(ends) / 4)
    return min(ends[first] + 1, last_kernel)


def multiply_adds(model: keras.Model) -> int:
    """Return how many multiplications by weights one image takes, in all convolutions and dense layers."""
    total = 0
    for layer in nested_layers(model.operations):
        positions = _positions(layer)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            total += positions * math.prod(layer.kernel.shape)
        elif isinstance(layer, keras.layers.SeparableConv2D):
            total += positions * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            total += positions * math.prod(layer.kernel.shape)
    return total


def nested_layers(operations: Iterable[Any]) -> Iterator[keras.Layer]:
    """Yield the layers among `operations`. In place of a nested model, yield its layers."""
    for operation in operations:
        if isinstance(operation, keras.Model):
            yield from nested_layers(operation.layers)
        elif isinstance(operation, keras.Layer):
            yield operation


def is_depthwise(layer: keras.Layer) -> bool:
    """Return whether a layer is a convolution that treats each channel, or each group of channels, separately."""
    alone = isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D)
    return alone or (isinstance(layer, keras.layers.Conv2D) and layer.groups > 1)


def _positions(layer: keras.Layer) -> int:
    """Return how often a layer applies its kernel to one image: once per output position.

    A side of the output whose length is unknown counts as 1.
    """
    return math.prod(side or 1 for side in layer.output.shape[1:-1])


def has_kernel(operation: Any) -> bool:
    """Return whether an operation multiplies by a matrix of weights: a convolution does, a normalisation does not."""
    return any(len(weight.shape) > 1 for weight in getattr(operation, "weights", ()))


def _with_activation(graph: Graph, index: int) -> int:
    """Return the index of the activation that is the only reader of the output at `index`.

    If there is no such activation, return `index`.
    """
    readers = graph.readers[index]
    return readers[0] if len(readers) == 1 and isinstance(graph.operations[readers[0]], _ACTIVATIONS) else index


def _is_bottleneck(graph: Graph, index: int) -> bool:
    reading = [graph.operations[reader] for reader in graph.readers[index]]
    convolved = any(has_kernel(operation) for operation in reading)
    plain = not any(isinstance(operation, _ACTIVATIONS) for operation in reading)
    return isinstance(graph.operations[index], keras.layers.BatchNormalization) and convolved and plain


def _stage_ends(graph: Graph, single: Sequence[int]) -> list[int]:
    """Return the index of the last operation of each stage. The network must have no branches.

    The last stage has an index only if a pooling ends this stage.
    """
    ends, kept = [], 0  # `kept`: the last operation that is no padding
    for index in single:
        shape, before = graph.shape(index), graph.shape(kept)
        if len(shape) != 3:
            break
        pools = isinstance(graph.operations[index], _POOLINGS)
        if kept and shape[0] <= _DOWNSAMPLES * before[0] and any(map(has_kernel, graph.operations[: kept + 1])):
            ends.append(index if pools else kept)  # the pooling that ends a stage belongs to it
        if not isinstance(graph.operations[index], keras.layers.ZeroPadding2D):
            kept = index
    return ends


def _common_start(names: Sequence[str]) -> str:
    """Return the longest common start of `names`, such as `block5`.

    The start consists of whole words. It is shorter than each name.
    """
    alike = takewhile(lambda words: len(set(words)) == 1, zip(*(name.split("_") for name in names), strict=False))
    words = [word for word, *_ in alike]
    return "_".join(words[:-1] if "_".join(words) in names else words)


def _is_numbered(operation: Any) -> bool:
    """Return whether Keras made up the name of an operation from its class and a number."""
    return re.sub(r"_\d+$", "", operation.name) == _snake_case(type(operation).__name__)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().replace("2_d", "2d")
