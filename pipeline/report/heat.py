"""Maps of the image regions that support a classifier's answer (Grad-CAM, arXiv 1610.02391)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from headstart.features.errors import OptionError
from headstart.features.images.scan import ImageFile
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.pages.pictures import jpeg_url
from headstart.pipeline.runs import Run
from PIL import Image

_SIDE, _BATCH = 160, 8  # pixels along the side of a map; images in a batch
_OPACITY = 0.5


def heat_maps(run: Run, data: FeaturedExamples, images: Sequence[ImageFile], labels: Sequence[int]) -> dict[str, str]:
    """Return a dict from the digest of each image to its heat map, a `data:` URL of a JPEG.

    `labels` has a label for each of `images`. A heat map shows which regions of the image support the image's label in
    the fine-tuned classifier. The heat map is laid over the pixels that the network gets. Images that can't be decoded
    are left out.

    The heat map is a weighted sum of the channels of the backbone's output at the last cut. The weight of a channel is
    the gradient of the label's logit with respect to the mean of the channel over space. The head gets these means as
    features.

    Raises OptionError if the features at a cut are not means over space.
    """
    from headstart.features.images.batches import decoded_batches
    from headstart.features.tensorflow import keras
    from headstart.pipeline.classifier import take_apart

    side = data.network.images.size
    network, head = take_apart(run.load_model(run.classifier_file, (side, side, 3)), data.network)
    backbone, cuts = network.backbone, network.cuts
    if any(len(backbone.shapes[cut.block]) != 3 for cut in cuts):
        raise OptionError(f"{backbone.title}: its features are no mean over space")
    pixels = keras.Input((side, side, 3), dtype="uint8")
    outputs = keras.Model(pixels, backbone.features(pixels, [replace(cut, map=True) for cut in cuts]))
    found = {}
    for positions, batch in decoded_batches(images, network.images, _BATCH):
        maps = [np.asarray(one, np.float32) for one in keras.tree.flatten(outputs.predict_on_batch(batch))]
        slopes = _slopes(head, maps, [labels[at] for at in positions])
        strengths = np.einsum("bhwd,bd->bhw", maps[-1], slopes[:, -maps[-1].shape[-1] :])
        for at, picture, strength in zip(positions.tolist(), batch, strengths, strict=True):
            found[images[at].digest] = jpeg_url(_laid_over(picture, strength))
    return found


def _slopes(head: Any, maps: Sequence[np.ndarray], labels: Sequence[int]) -> np.ndarray:
    """Return the gradient of the label's logit with respect to the features, float32 [B, D], for B images."""
    from headstart.features.tensorflow import tf

    features = tf.constant(np.concatenate([one.mean(axis=(1, 2)) for one in maps], axis=1))
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = head(features, training=False)
        if logits.shape[1] == 1:  # the only logit is high for the second class, and low for the first
            chosen = logits[:, 0] * (2.0 * np.array(labels, np.float32) - 1.0)
        else:
            chosen = tf.gather(logits, np.array(labels), axis=1, batch_dims=1)
    return np.asarray(tape.gradient(chosen, features))


def _laid_over(pixels: np.ndarray, strength: np.ndarray) -> Image.Image:
    """Lay `strength` (float32 [h, w]) in colours over `pixels` (uint8 [H, W, 3]). Return the resulting image.

    Negative strengths count as 0.
    """
    from matplotlib import colormaps

    positive = np.maximum(strength, 0)
    scaled = Image.fromarray(positive / max(float(positive.max()), np.finfo(np.float32).tiny))
    smooth = np.asarray(scaled.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)).clip(0, 1)
    colours = Image.fromarray((255 * colormaps["inferno"](smooth)[..., :3]).astype(np.uint8))
    return Image.blend(Image.fromarray(pixels).resize((_SIDE, _SIDE)), colours, _OPACITY)
