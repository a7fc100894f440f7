"""Train heads faster: matrix products in bfloat16, and fused weight updates."""

from collections.abc import Iterable, Sequence
from typing import Any

from headstart.features.tensorflow import keras, tf


class Bfloat16Dense(keras.layers.Layer):
    """A dense layer that multiplies in bfloat16 in training, and in float32 in evaluation."""

    def __init__(self, dense: keras.layers.Dense) -> None:
        super().__init__(name=f"{dense.name}_bfloat16")
        self.dense = dense

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Map inputs (float32 [B, D]) to outputs (float32 [B, units])."""
        if not training:
            return self.dense(inputs)
        reduced = (keras.ops.cast(factor, "bfloat16") for factor in (inputs, self.dense.kernel))
        product = keras.ops.cast(keras.ops.matmul(*reduced), "float32")
        return self.dense.activation(product + self.dense.bias)


def with_reduced_products(head: keras.Model) -> keras.Model:
    """Copy `head` with a `Bfloat16Dense` in place of each hidden dense layer. The copy shares the weights of `head`."""

    def layer_of(layer: keras.layers.Layer) -> keras.layers.Layer:
        hidden = isinstance(layer, keras.layers.Dense) and layer is not head.layers[-1]
        return Bfloat16Dense(layer) if hidden else layer

    return keras.models.clone_model(head, clone_function=layer_of)


class FusedAdam:
    """Adam with decoupled weight decay. One fused operation applies the Adam step to a float32 weight.

    `settings` is a Keras Adam or AdamW, which holds the learning rate and the other settings. Without fusion, Keras
    updates a weight in about ten operations, and each operation reads or writes the whole weight. Sources: Kingma & Ba
    2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    def __init__(self, settings: keras.optimizers.Adam, weights: Sequence[tf.Variable]) -> None:
        self.settings, self.weights = settings, weights
        self.moments = [[tf.Variable(tf.zeros_like(weight)) for weight in weights] for _ in range(2)]
        self.steps = tf.Variable(0, dtype=tf.int64)

    @property
    def variables(self) -> list[tf.Variable]:
        """Return both moments of each weight, and the number of steps taken."""
        return [*self.moments[0], *self.moments[1], self.steps]

    def apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Take one step: update each weight by its gradient."""
        settings = self.settings
        rate, step = settings.learning_rate, tf.cast(self.steps.assign_add(1), tf.float32)
        for weight, gradient, mean, square in zip(self.weights, gradients, *self.moments, strict=True):
            if settings.weight_decay:
                weight.assign_sub(weight * settings.weight_decay * rate)
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=settings.beta_1**step,
                beta2_power=settings.beta_2**step,
                lr=rate,
                beta1=settings.beta_1,
                beta2=settings.beta_2,
                epsilon=settings.epsilon,
                grad=gradient,
            )


def fused(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> FusedAdam | keras.optimizers.Optimizer:
    """Return a `FusedAdam` for `weights` if `optimizer` is Adam or AdamW.

    Otherwise, build `optimizer` for `weights`, and return it.
    """
    if isinstance(optimizer, keras.optimizers.Adam):
        return FusedAdam(optimizer, [weight.value for weight in weights])
    optimizer.build(weights)
    return optimizer


def release(variables: Iterable[tf.Variable | keras.Variable]) -> None:
    """Free the memory of `variables`, which can't be used afterwards.

    Without this call, the memory would never be freed. Keras's optimizers have a callback that keeps the variables in
    memory, and TensorFlow never drops this callback (Keras 3.15, TensorFlow 2.21).
    """
    for variable in variables:
        resource = variable.value if isinstance(variable, keras.Variable) else variable
        tf.raw_ops.AssignVariableOp(resource=resource.handle, value=tf.zeros(0, resource.dtype))
