"""Check that a model can be trained: TensorFlow can make a graph of it, and each of its weights has a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def why_no_graph(model: keras.Model, features: int) -> str:
    """Return the reason why TensorFlow can't make a graph to train `model`. Return "" if it can.

    The model takes float32 [B, features]. The graph is not run, so no weight and no random state changes.
    """
    from headstart.features.tensorflow import tf

    rows = tf.TensorSpec((None, features), tf.float32)
    try:
        tf.function(lambda x: model(x, training=True), autograph=False).get_concrete_function(rows)
    except Exception as error:  # a layer may raise anything
        return " ".join(str(error).split())[:300] or type(error).__name__
    return ""


def without_gradient(model: keras.Model, features: int) -> str:
    """Return the path of the first trainable weight of `model` that has no gradient.

    If all trainable weights have a gradient, return "". A weight without gradient changes neither the output nor a
    regularisation loss. `model` takes float32 [B, features].
    """
    from headstart.features.tensorflow import tf

    with tf.GradientTape() as tape:
        total = tf.add_n([tf.reduce_sum(model(tf.zeros((2, features)))), *model.losses])
    slopes = tape.gradient(total, [weight.value for weight in model.trainable_variables])
    pairs = zip(model.trainable_variables, slopes, strict=True)
    return next((weight.path for weight, slope in pairs if slope is None), "")
