"""What takes TensorFlow itself: updates of weights in one loop, and memory that Keras would never let go of."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf


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
