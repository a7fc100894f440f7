import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import StoreError
from headstart.features.extract import extract_features
from headstart.features.frozen.frozen import FrozenBackbone, Pass, freeze
from headstart.features.frozen.network import Network
from headstart.features.images.augment import View, augment_image
from headstart.features.images.batches import decoded_batches
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.store.claims import Claim, Claims
from headstart.features.store.portions import cut_into_portions
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import ShardWriter
from headstart.tests.conftest import SMALL
from headstart.tests.features.store.test_claims import ended_process

INNER, OUTER = CUTS = tuple(Cut("mobilenet_v3_small", block) for block in ("expanded_conv_7_add", "top_activation"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("mobilenet_v3_small", "random", image_size=64)


@pytest.fixture
def images(drawn: Path) -> list[ImageFile]:
    """Forty good images and the two broken ones whose header is whole."""
    seen = inspect_images(sorted(drawn.glob("*/*.jpg")))
    return [image for found in seen for image in found if isinstance(image, ImageFile)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each forward pass."""
    counts: list[int] = []
    original = FrozenBackbone.__call__

    def counted(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        counts.append(len(pixels))
        return original(self, pixels, *run)

    monkeypatch.setattr(FrozenBackbone, "__call__", counted)
    return counts


@pytest.fixture(scope="module")
def frozen(backbone: Backbone) -> FrozenBackbone:
    return freeze(backbone, CUTS, 8)


def build_nothing() -> FrozenBackbone:
    raise AssertionError("a network was built for images that can't be decoded")


def stores_in(folder: Path, backbone: Backbone) -> dict[Cut, FeatureStore]:
    config, extraction = FeatureConfig(**SMALL), ExtractionConfig(store=folder)
    return {cut: store.create() for cut, store in Network(backbone, CUTS, config, extraction).stores().items()}


def test_each_image_is_seen_once_and_broken_ones_are_named(tmp_path: Path, backbone, frozen, images, passes) -> None:
    stores = stores_in(tmp_path, backbone)
    done = extract_features(images, lambda: frozen, stores, ImageConfig(64))
    assert (done.extracted, sum(passes)) == (40, 40)
    assert {(Path(reject.path).name, reject.reason) for reject in done.rejects} == {
        ("broken.half.jpg", "truncated"),
        ("broken.tail.jpg", "truncated"),
    }
    assert done.images_per_second == pytest.approx(40 / done.seconds)
    again = extract_features(images, build_nothing, stores, ImageConfig(64))
    assert (again.extracted, sum(passes), len(again.rejects)) == (0, 40, 2)


def test_only_what_is_missing_is_extracted(tmp_path: Path, backbone, frozen, images, passes) -> None:
    good = [image for image in images if "broken" not in image.path]
    stores = stores_in(tmp_path, backbone)
    inner, outer = stores.values()
    of_one = freeze(backbone, [OUTER], 8)
    extract_features(good[:10], lambda: of_one, {OUTER: outer}, ImageConfig(64))
    assert sum(passes) == 10
    done = extract_features(good[5:12], lambda: of_one, {OUTER: outer}, ImageConfig(64))
    assert done.digests == {image.digest for image in good[10:12]}
    assert sum(passes) == 12
    extract_features(good[:12], lambda: frozen, stores, ImageConfig(64))
    assert sum(passes) == 24  # the inner cut lacked all
    digests = [image.digest for image in good[:12]]
    assert inner.missing(digests) == outer.missing(digests) == []


def test_a_store_that_can_not_be_written_to_is_told_before_a_network_is_built(
    tmp_path: Path, backbone, frozen, images, passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [image for image in images if "broken" not in image.path]
    stores = stores_in(tmp_path, backbone)
    extract_features(good[:1], lambda: frozen, stores, ImageConfig(64))

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StoreError, match=f"--store {tmp_path}: can't be written to"):
        extract_features(good[:2], build_nothing, stores, ImageConfig(64))
    assert extract_features(good[:1], build_nothing, stores, ImageConfig(64)).extracted == 0


@pytest.mark.slow
def test_what_another_process_extracts_is_left_to_it(
    tmp_path: Path, backbone, frozen, images, passes, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ShardWriter.add

    def added(self: ShardWriter[Cut], *given: Any) -> bool:
        self.wait()  # as where a pass takes longer than writing a shard
        return add(self, *given)

    monkeypatch.setattr(ShardWriter, "add", added)
    good = [image for image in images if "broken" not in image.path]
    elsewhere, here = stores_in(tmp_path / "elsewhere", backbone), stores_in(tmp_path / "here", backbone)
    extract_features(good, lambda: frozen, elsewhere, ImageConfig(64))
    portions = cut_into_portions([image.digest for image in images], {image.digest for image in images})
    theirs = [portions.digests[position] for position in portions.positions(1)]
    claims = Claims(here[INNER].folder)
    assert claims.take(portions.names[1]) == Claim.MINE
    before = sum(passes)

    def finish() -> None:
        for cut, store in here.items():
            known = [digest for digest in theirs if not elsewhere[cut].missing([digest])]
            store.write_shard(known, elsewhere[cut].read(known))
        claims.done(portions.names[1])

    timer = threading.Timer(2, finish)
    timer.start()
    done = extract_features(images, lambda: frozen, here, ImageConfig(64))
    timer.join()
    assert done.extracted == sum(passes) - before == 40 - len(set(theirs) & {image.digest for image in good})
    assert len(done.rejects) == 2
    assert "waiting for the last images, which other processes extract" in capsys.readouterr().err
    assert len(list(here[INNER].folder.glob("shard-*.h5"))) >= 4  # a kill would have lost little
    for cut, store in here.items():
        digests = [image.digest for image in good]
        np.testing.assert_array_equal(store.read(digests), elsewhere[cut].read(digests))


def test_the_work_of_a_killed_process_is_taken_over(tmp_path: Path, backbone, frozen, images) -> None:
    stores = stores_in(tmp_path, backbone)
    digests = [image.digest for image in images]
    (stores[INNER].folder / "claims").mkdir()
    for name in cut_into_portions(digests, set(digests)).names:
        (stores[INNER].folder / "claims" / f"{name}.claimed").write_text(ended_process())
    done = extract_features(images, lambda: frozen, stores, ImageConfig(64))
    assert (done.extracted, len(done.rejects)) == (40, 2)
    assert not list(tmp_path.rglob("claims"))


def test_an_error_while_portions_are_claimed_is_told_as_it_is(
    tmp_path: Path, backbone, frozen, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = stores_in(tmp_path, backbone)

    def fail(self: ShardWriter[Cut], digests: list[str], at_once: bool) -> np.ndarray:
        raise StoreError("a shard that is listed and can't be opened")

    monkeypatch.setattr(ShardWriter, "still_lacking", fail)
    with pytest.raises(StoreError, match="a shard that is listed"):
        extract_features(images, lambda: frozen, stores, ImageConfig(64))
    assert not list(tmp_path.rglob("claims"))


@pytest.mark.slow
def test_features_do_not_depend_on_the_rest_of_the_batch(tmp_path: Path, backbone, frozen, images) -> None:
    good = [image for image in images if "broken" not in image.path]
    alone, together, with_broken = (stores_in(tmp_path / name, backbone) for name in "abc")
    for image in good[:3]:
        extract_features([image], lambda: frozen, alone, ImageConfig(64))
    extract_features(good, lambda: freeze(backbone, CUTS, 8), together, ImageConfig(64))
    extract_features(images[::-1], lambda: frozen, with_broken, ImageConfig(64))
    for one, all_, broken in zip(alone.values(), together.values(), with_broken.values(), strict=True):
        some, every = [image.digest for image in good[:3]], [image.digest for image in good]
        np.testing.assert_array_equal(one.read(some), all_.read(some))
        np.testing.assert_array_equal(broken.read(every), all_.read(every))


@pytest.mark.slow
def test_features_of_a_view_are_those_of_the_augmented_image(tmp_path: Path, backbone, frozen, images) -> None:
    good = [image for image in images if "broken" not in image.path][:5]
    config = ImageConfig(64)
    views = [View("standard", 3, 1), View("standard", 3, 2), View("standard", 4, 1)]
    found = []
    for number, view in enumerate(views):
        stores = stores_in(tmp_path / str(number), backbone)
        extract_features(good[::-1], lambda: frozen, stores, config, view)  # what came with an image does not matter
        found.append(stores[OUTER].read([image.digest for image in good]))
        ((_, pixels),) = decoded_batches(good, config, 8)
        augmented = [
            augment_image(tf.constant(one), "standard", tf.constant(view.image_seed(image.digest)))
            for one, image in zip(pixels, good, strict=True)
        ]
        np.testing.assert_allclose(found[-1], frozen(np.stack(augmented))[OUTER], rtol=1e-5, atol=1e-6)
    assert all(not np.array_equal(found[0], other) for other in found[1:])


def test_features_equal_those_of_the_plain_model(tmp_path: Path, backbone, frozen, images) -> None:
    import keras

    good = [image for image in images if "broken" not in image.path]
    stores = stores_in(tmp_path, backbone)
    extract_features(good, lambda: frozen, stores, ImageConfig(64))
    pixels = keras.Input((64, 64, 3), dtype="uint8")
    model = keras.Model(pixels, backbone.features(pixels, CUTS))
    batch = np.concatenate([pixels for _, pixels in decoded_batches(good, ImageConfig(64), 8)])
    for store, expected in zip(stores.values(), model.predict(batch, verbose=0), strict=True):
        found = store.read([image.digest for image in good])
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_image_that_changes_on_the_way_is_not_stored(tmp_path: Path, backbone, frozen, images) -> None:
    good = [image for image in images if "broken" not in image.path]
    copy = tmp_path / "x.jpg"
    copy.write_bytes(Path(good[0].path).read_bytes())
    ((scanned,),) = inspect_images([copy])
    assert isinstance(scanned, ImageFile)
    copy.write_bytes(Path(good[1].path).read_bytes())
    stores = stores_in(tmp_path / "store", backbone)
    done = extract_features([scanned], lambda: frozen, stores, ImageConfig(64))
    assert (done.extracted, [reject.reason for reject in done.rejects]) == (0, ["vanished"])
    assert stores[INNER].missing([scanned.digest]) == [scanned.digest]


def test_what_is_computed_is_kept_on_an_interrupt(
    tmp_path: Path, backbone, frozen, images, passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = FrozenBackbone.__call__

    def interrupted(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        if sum(passes) >= 16:
            raise KeyboardInterrupt
        return counted(self, pixels, *run)

    stores = stores_in(tmp_path, backbone)
    with monkeypatch.context() as patched:
        patched.setattr(FrozenBackbone, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_features(images, lambda: frozen, stores, ImageConfig(64))
    seen = sum(passes)
    assert 16 <= seen < 24
    assert extract_features(images, lambda: frozen, stores, ImageConfig(64)).extracted == 40 - seen


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(images) -> None:
    good = [image for image in images if "broken" not in image.path]
    ((_, batch),) = decoded_batches(good[:4], ImageConfig(64), 4)
    full, reduced = (
        freeze(build_backbone("mobilenet_v3_small", "random", image_size=64, precision=precision), CUTS, 8)(batch)
        for precision in ("float32", "bfloat16")
    )
    for cut in CUTS:
        difference = np.linalg.norm(reduced[cut] - full[cut]) / np.linalg.norm(full[cut])
        assert 0 < difference < 0.1
