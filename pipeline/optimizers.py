"""What makes heads train fast: reduced products, fused updates of weights, memory that Keras would keep."""

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


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam, with two operations to update a weight and its running average.

    Keras has some twenty, each of which takes all weights through memory. XLA would make one loop of them, as fast as
    these are, after a fifth of a second of compiling for each head.
    """

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Update one weight, float32, and its moments."""
        index = self._get_variable_index(variable)
        step = keras.ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _update_model_variables_moving_average(self, trainable_variables: Iterable[keras.Variable]) -> None:
        share = keras.ops.where(self.iterations == 0, 1.0, 1.0 - self.ema_momentum)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            off = average.value - variable.value
            tf.raw_ops.ResourceApplyGradientDescent(var=average.value.handle, alpha=share, delta=off)


def fused(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The same optimizer, not built yet; Adam and AdamW as `FusedAdam`."""
    if not isinstance(optimizer, keras.optimizers.Adam):
        return optimizer
    return FusedAdam.from_config(optimizer.get_config())


def release(variables: Iterable[keras.Variable]) -> None:
    """Free the memory of variables that nothing will read again.

    Keras sums gradients over replicas, of which there is one, by a function with a gradient of its own. TensorFlow
    registers that for good, and with it the graph of the step and all variables there (Keras 3.15, TensorFlow 2.21):
    each model that was trained would stay in memory, four times with what Adam and an average keep.
    """
    for variable in variables:
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=tf.zeros(0, variable.value.dtype))
