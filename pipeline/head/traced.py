"""Whether TensorFlow can make a graph of a model. Some names and layers work only outside a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def why_no_graph(model: keras.Model, features: int) -> str:
    """Return the reason why TensorFlow can't make a graph of `model`, as training does. Return "" if it can.

    The model takes float32 [B, features]. The graph is not run, so no weight and no random state changes.
    """
    from headstart.features.tensorflow import tf

    rows = tf.TensorSpec((None, features), tf.float32)
    try:
        tf.function(lambda x: model(x, training=True), autograph=False).get_concrete_function(rows)
    except Exception as error:  # a layer may raise anything
        return " ".join(str(error).split())[:300] or type(error).__name__
    return ""
