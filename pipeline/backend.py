"""What makes heads train fast: reduced products, updates of weights in one loop, memory that Keras would keep."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf


class Bfloat16Dense(keras.layers.Layer):
    """A dense layer, its matrix product in bfloat16 while it is trained, and as it is while it is evaluated."""

    def __init__(self, dense: keras.layers.Dense) -> None:
        super().__init__(name=f"{dense.name}_bfloat16")
        self.dense = dense

    def call(self, inputs: Any, training: bool = False) -> Any:
        """[B, D] to [B, units], both float32."""
        if not training:
            return self.dense(inputs)
        reduced = (keras.ops.cast(factor, "bfloat16") for factor in (inputs, self.dense.kernel))
        product = keras.ops.cast(keras.ops.matmul(*reduced), "float32")
        return self.dense.activation(product + self.dense.bias)


def for_training(head: keras.Model, reduced: bool) -> keras.Model:
    """A model of the layers of `head`, and so of its weights, to compile: what is kept shall know of no optimizer.

    Args:
        reduced: with hidden layers as `Bfloat16Dense`.
    """

    def layer_of(layer: keras.layers.Layer) -> keras.layers.Layer:
        hidden = isinstance(layer, keras.layers.Dense) and layer is not head.layers[-1]
        return Bfloat16Dense(layer) if reduced and hidden else layer

    return keras.models.clone_model(head, clone_function=layer_of)


def compile_updates(optimizer: keras.optimizers.Optimizer) -> None:
    """Have XLA make one loop of all that an optimizer, which is built, does to a weight.

    Keras's is a dozen operations, each of which takes all weights through memory. Compiling the whole step gains little
    more and takes ten times as long, and XLA's dropout is slow on a processor (TensorFlow 2.21).
    """
    plain = optimizer.apply

    def update(gradients: list[Any]) -> None:  # the variables are those that it was built with
        plain(gradients)

    compiled = tf.function(update, jit_compile=True, autograph=False)

    def apply(gradients: Iterable[Any], trainable_variables: Any = None) -> None:
        compiled(list(gradients))

    optimizer.apply = apply


def release(variables: Iterable[keras.Variable]) -> None:
    """Free the memory of variables that nothing will read again.

    Keras sums gradients over replicas, of which there is one, by a function with a gradient of its own. TensorFlow
    registers that for good, and with it the graph of the step and all variables there (Keras 3.15, TensorFlow 2.21):
    each model that was trained would stay in memory, four times with what Adam and an average keep.
    """
    for variable in variables:
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=tf.zeros(0, variable.value.dtype))
