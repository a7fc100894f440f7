from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.frozen import FrozenBackbone
from headstart.features.backbones.weights import build_backbone
from headstart.features.extract import extract_features, missing_images
from headstart.features.images.augment import View, augment_image
from headstart.features.images.batches import decoded_batches
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile, inspect_images
from headstart.features.store.store import FeatureStore

CUTS = ("expanded_conv_7_add", "top_activation")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("mobilenet_v3_small", "random", image_size=64)


@pytest.fixture
def images(drawn: Path) -> list[ImageFile]:
    """Forty good images and the two broken ones whose header is whole."""
    seen = inspect_images(sorted(drawn.glob("*/*.jpg")))
    return [image for image in seen if isinstance(image, ImageFile)]


class Counting(FrozenBackbone):
    """Counts the images of its forward passes, the warm-up apart."""

    images = 0

    def warm_up(self) -> None:
        super().warm_up()
        self.images = 0

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        self.images += len(pixels)
        return super().__call__(pixels)


def stores_in(folder: Path, backbone: Backbone, cuts=CUTS) -> list[FeatureStore]:
    fingerprint = {"backbone": backbone.name, "weights": backbone.weights_digest, "dtype": "float32"}
    return [FeatureStore(folder, {**fingerprint, "cut": cut, "shape": backbone.shape(cut)}).create() for cut in cuts]


def test_each_image_is_seen_once_and_broken_ones_are_named(tmp_path: Path, backbone, images) -> None:
    stores = stores_in(tmp_path, backbone)
    frozen = Counting(backbone, CUTS, 8)
    done = extract_features(images, frozen, stores, ImageConfig(64))
    assert (done.extracted, frozen.images) == (40, 40)
    assert {(Path(reject.path).name, reject.reason) for reject in done.rejects} == {
        ("broken.half.jpg", "truncated"),
        ("broken.tail.jpg", "truncated"),
    }
    assert done.images_per_second == pytest.approx(40 / done.seconds)
    frozen = Counting(backbone, CUTS, 8)
    again = extract_features(images, frozen, stores, ImageConfig(64))
    assert (again.extracted, frozen.images, len(again.rejects)) == (0, 0, 2)
    assert "slots" not in vars(frozen), "a network was built for images that can't be decoded"


def test_only_what_is_missing_is_extracted(tmp_path: Path, backbone, images) -> None:
    good = [image for image in images if "broken" not in image.path]
    inner, outer = stores_in(tmp_path, backbone)
    extract_features(good[:10], FrozenBackbone(backbone, CUTS[1:], 8), [outer], ImageConfig(64))
    assert [image.digest for image in missing_images(good[5:12], [outer])] == [image.digest for image in good[10:12]]
    frozen = Counting(backbone, CUTS, 8)
    extract_features(good[:12], frozen, [inner, outer], ImageConfig(64))
    assert frozen.images == 12  # the inner cut lacked all
    digests = [image.digest for image in good[:12]]
    assert inner.missing(digests) == outer.missing(digests) == []


def test_features_do_not_depend_on_the_rest_of_the_batch(tmp_path: Path, backbone, images) -> None:
    good = [image for image in images if "broken" not in image.path]
    alone, together, with_broken = (stores_in(tmp_path / name, backbone) for name in "abc")
    frozen = FrozenBackbone(backbone, CUTS, 8)
    for image in good[:3]:
        extract_features([image], frozen, alone, ImageConfig(64))
    extract_features(good, FrozenBackbone(backbone, CUTS, 8), together, ImageConfig(64))
    extract_features(images[::-1], frozen, with_broken, ImageConfig(64))
    for one, all_, broken in zip(alone, together, with_broken, strict=True):
        some, every = [image.digest for image in good[:3]], [image.digest for image in good]
        np.testing.assert_array_equal(one.read(some), all_.read(some))
        np.testing.assert_array_equal(broken.read(every), all_.read(every))


def test_features_of_a_view_are_those_of_the_augmented_image(tmp_path: Path, backbone, images) -> None:
    good = [image for image in images if "broken" not in image.path][:5]
    config, frozen = ImageConfig(64), FrozenBackbone(backbone, CUTS, 8)
    views = [View("standard", 3, 1), View("standard", 3, 2), View("standard", 4, 1)]
    found = []
    for number, view in enumerate(views):
        stores = stores_in(tmp_path / str(number), backbone)
        extract_features(good[::-1], frozen, stores, config, view)  # what came with an image does not matter
        found.append(stores[1].read([image.digest for image in good]))
        ((_, pixels),) = decoded_batches(good, config, 8)
        augmented = [
            augment_image(tf.constant(one), "standard", tf.constant(view.image_seed(image.digest)))
            for one, image in zip(pixels, good, strict=True)
        ]
        np.testing.assert_allclose(found[-1], frozen(np.stack(augmented))["top_activation"], rtol=1e-5, atol=1e-6)
    assert all(not np.array_equal(found[0], other) for other in found[1:])


def test_features_equal_those_of_the_plain_model(tmp_path: Path, backbone, images) -> None:
    import keras

    good = [image for image in images if "broken" not in image.path]
    stores = stores_in(tmp_path, backbone)
    extract_features(good, FrozenBackbone(backbone, CUTS, 8), stores, ImageConfig(64))
    pixels = keras.Input((64, 64, 3), dtype="uint8")
    model = keras.Model(pixels, backbone.features(pixels, CUTS))
    batch = np.concatenate([pixels for _, pixels in decoded_batches(good, ImageConfig(64), 8)])
    for store, expected in zip(stores, model.predict(batch, verbose=0), strict=True):
        found = store.read([image.digest for image in good])
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_image_that_changes_on_the_way_is_not_stored(tmp_path: Path, backbone, images) -> None:
    good = [image for image in images if "broken" not in image.path]
    copy = tmp_path / "x.jpg"
    copy.write_bytes(Path(good[0].path).read_bytes())
    (scanned,) = inspect_images([copy])
    assert isinstance(scanned, ImageFile)
    copy.write_bytes(Path(good[1].path).read_bytes())
    stores = stores_in(tmp_path / "store", backbone)
    done = extract_features([scanned], FrozenBackbone(backbone, CUTS, 8), stores, ImageConfig(64))
    assert (done.extracted, [reject.reason for reject in done.rejects]) == (0, ["vanished"])
    assert stores[0].missing([scanned.digest]) == [scanned.digest]


def test_what_is_computed_is_kept_on_an_interrupt(tmp_path: Path, backbone, images) -> None:
    class Interrupted(Counting):
        def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            if self.images >= 16:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    stores, interrupted = stores_in(tmp_path, backbone), Interrupted(backbone, CUTS, 8)
    with pytest.raises(KeyboardInterrupt):
        extract_features(images, interrupted, stores, ImageConfig(64))
    assert 16 <= interrupted.images < 24
    again = extract_features(images, Counting(backbone, CUTS, 8), stores, ImageConfig(64))
    assert again.extracted == 40 - interrupted.images


def test_bfloat16_is_close_to_float32(images) -> None:

    good = [image for image in images if "broken" not in image.path]
    ((_, batch),) = decoded_batches(good[:4], ImageConfig(64), 4)
    full, reduced = (
        FrozenBackbone(build_backbone("mobilenet_v3_small", "random", image_size=64, precision=precision), CUTS, 8)(
            batch
        )
        for precision in ("float32", "bfloat16")
    )
    for cut in CUTS:
        difference = np.linalg.norm(reduced[cut] - full[cut]) / np.linalg.norm(full[cut])
        assert 0 < difference < 0.1
