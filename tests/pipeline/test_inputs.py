import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, StoreError
from headstart.features.images.augment import augment_image
from headstart.features.images.columns.portionwise import portionwise
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.examples import Example, scan
from headstart.pipeline.featured import cache_features
from headstart.pipeline.inputs import eval_dataset, explained, features_dataset, require_unchanged_files, train_dataset
from headstart.tests.features.store.test_store import digest, fill, store_in, vectors

CONFIG = ImageConfig(48)


@pytest.fixture
def examples(drawn: Path) -> list[Example]:
    return [example for example in scan(drawn).examples if "broken" not in example.image.path][:19]


def train_batches(examples, epoch: int, augment: str = "none", seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(train_dataset(examples, CONFIG, 8, augment, seed, lambda: epoch).as_numpy_iterator())


def joined(batches) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = zip(*batches, strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def test_evaluation_sees_every_example_in_order(examples) -> None:
    batches = list(eval_dataset(examples, CONFIG, 8).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [8, 8, 3]
    pixels, labels = joined(batches)
    assert labels.tolist() == [example.label for example in examples]
    assert pixels.shape == (19, 48, 48, 3)
    assert pixels.dtype == np.uint8


def test_training_sees_every_example_once_an_epoch(examples) -> None:
    plain, _ = joined(eval_dataset(examples, CONFIG, 8).as_numpy_iterator())
    batches = train_batches(examples, 1)
    assert [len(labels) for _, labels in batches] == [8, 8, 3]
    pixels, labels = joined(batches)
    position = {image.tobytes(): number for number, image in enumerate(plain)}
    order = [position[image.tobytes()] for image in pixels]
    assert sorted(order) == list(range(19))
    assert order != list(range(19))
    assert labels.tolist() == [examples[number].label for number in order]


def misread(example: Example) -> Example:
    """As if its header had promised what TensorFlow then can't decode."""
    return replace(example, image=replace(example.image, format="PNG"))


@pytest.mark.slow
def test_what_only_pillow_can_read_is_streamed_in_its_place(examples) -> None:
    plain, labels = joined(eval_dataset(examples, CONFIG, 8).as_numpy_iterator())
    mixed = [misread(example) if number % 3 == 0 else example for number, example in enumerate(examples)]
    again, labels_again = joined(eval_dataset(mixed, CONFIG, 8).as_numpy_iterator())
    assert labels_again.tolist() == labels.tolist()
    assert np.abs(again.astype(int) - plain).mean(axis=(1, 2, 3)).max() < 6  # Pillow decodes at full size
    assert [len(labels) for _, labels in train_batches(mixed, 1, "standard")] == [8, 8, 3]


@pytest.mark.slow
def test_a_file_that_went_is_an_error_and_never_a_shorter_stream(examples, tmp_path: Path) -> None:
    gone = replace(examples[3], image=replace(examples[3].image, path=str(tmp_path / "gone.jpg")))
    some = [*examples[:3], gone, *examples[4:]]
    for batches in (eval_dataset(some, CONFIG, 8).as_numpy_iterator, lambda: train_batches(some, 1)):
        with pytest.raises(tf.errors.OpError):
            list(batches())
        with pytest.raises(DataError, match=r"gone\.jpg: gone or changed"), explained(some):
            list(batches())


def test_only_local_files_are_asked_whether_they_changed(examples) -> None:
    away = replace(examples[3].image, path="http://127.0.0.1:1/x.jpg")  # a request would be refused, and repeated
    require_unchanged_files([*examples, replace(examples[3], image=away)])
    with pytest.raises(DataError, match="gone or changed"):
        require_unchanged_files([replace(examples[3], image=replace(away, path="gone.jpg"))])


@pytest.mark.parametrize(
    "augment", ["none", *(pytest.param(one, marks=pytest.mark.slow) for one in ("flip", "standard"))]
)
def test_order_and_augmentation_follow_from_seed_and_epoch(examples, augment: str) -> None:
    epochs = iter((1, 2))  # each pass asks for its epoch
    dataset = train_dataset(examples, CONFIG, 8, augment, 0, lambda: next(epochs))
    first, second = (joined(dataset.as_numpy_iterator()) for _ in range(2))
    again = joined(train_batches(examples, 2, augment))
    np.testing.assert_array_equal(second[0], again[0])
    np.testing.assert_array_equal(second[1], again[1])
    for other in (first, joined(train_batches(examples, 2, augment, seed=1))):
        assert not np.array_equal(second[0], other[0])


def test_a_pass_that_is_given_up_is_forgotten(examples) -> None:
    begun: list[object] = []

    class Pass:
        def __init__(self) -> None:
            begun.append(weakref.ref(self))
            self.left = iter(range(3))

        def __iter__(self) -> "Pass":
            return self

        def __next__(self) -> tuple[np.ndarray]:
            return (np.full(2, next(self.left)),)

    dataset = portionwise(Pass, (tf.TensorSpec((None,), tf.int64),))
    for _ in range(3):
        assert next(dataset.as_numpy_iterator())[0].tolist() == [0, 0]
    assert [values.tolist() for (values,) in dataset.as_numpy_iterator()] == [[0, 0], [1, 1], [2, 2]]
    gc.collect()
    assert len(begun) == 4
    assert not any(one() for one in begun)


def test_flip_mirrors_about_half_and_changes_nothing_else() -> None:
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    results = [augment_image(image, "flip", tf.constant([seed, 7])).numpy() for seed in range(60)]
    mirrored = [np.array_equal(result, image.numpy()[:, ::-1]) for result in results]
    assert 15 < sum(mirrored) < 45
    assert all(
        mirror or np.array_equal(result, image.numpy()) for mirror, result in zip(mirrored, results, strict=True)
    )


def test_standard_stays_close_to_the_image(examples) -> None:
    plain, _ = joined(eval_dataset(examples, CONFIG, 8).as_numpy_iterator())
    for number, image in enumerate(plain):
        changed = augment_image(tf.constant(image), "standard", tf.constant([number, 1])).numpy()
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert abs(changed.mean() - image.mean()) < 90
        assert not np.array_equal(changed, image)


def cached_examples(count: int) -> list[Example]:
    images = [ImageFile(f"{number}.jpg", digest(number), 1, 1, 1, 1, 1, "JPEG") for number in range(count)]
    return [Example(image, number % 3, "train") for number, image in enumerate(images)]


@pytest.mark.parametrize("buffer", [1, 10, 60, 10**6])
def test_cached_features_are_streamed_each_once_in_another_order_an_epoch(tmp_path: Path, buffer: int) -> None:
    store, examples = store_in(tmp_path), cached_examples(60)
    for start in range(0, 60, 15):
        fill(store, list(range(start, start + 15)))
    known = {vectors([number])[0].tobytes(): number for number in range(60)}
    orders = []
    for epoch in (1, 2, 1):
        dataset = features_dataset([store], examples, 8, 0, lambda epoch=epoch: epoch, buffer_bytes=20 * buffer)
        batches = list(dataset.as_numpy_iterator())
        assert [len(labels) for _, labels in batches] == [8] * 7 + [4]
        assert dataset.cardinality() == 8
        features, labels = joined(batches)
        order = [known[row.tobytes()] for row in features]
        assert labels.tolist() == [number % 3 for number in order]
        assert sorted(order) == list(range(60))
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]


def test_a_damaged_shard_is_named_by_what_reads_the_stream(tmp_path: Path) -> None:
    store, examples = store_in(tmp_path), cached_examples(30)
    shard = fill(store, list(range(30)))
    raised: list[Exception] = []
    dataset = features_dataset([store], examples, 8, 0, lambda: 0, raised)
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(StoreError, match=shard.name) as caught, explained([], raised):
        list(dataset)
    assert raised[0] is caught.value  # the error itself, not another with its text


def test_a_stream_of_features_needs_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    store, examples = store_in(tmp_path, shape=[4096]), cached_examples(800)
    for start in range(0, 800, 100):
        numbers = range(start, start + 100)
        store.write_shard([digest(number) for number in numbers], np.full((100, 4096), start, np.float32))
    total = 800 * 4096 * 4
    tracemalloc.start()
    for _ in features_dataset([store], examples, 16, 0, lambda: 1, buffer_bytes=total // 16):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < total / 2


@pytest.mark.slow
def test_what_fits_a_buffer_comes_in_the_order_of_images(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    cached = cache_features(prepared, replace(small, views=2), extraction)
    examples = cached.of("train")
    stores = [store for view in cached.views for store in view.values()]
    for epoch in range(3):
        images = train_dataset(examples, cached.network.images, 8, "none", 5, lambda epoch=epoch: epoch)
        features = features_dataset(stores, examples, 8, 5, lambda epoch=epoch: epoch)
        found, labels = joined(features)
        np.testing.assert_array_equal(labels, joined(images)[1])
        order = np.random.default_rng([5, epoch]).permutation(len(examples))
        expected = stores[epoch % 2].read([examples[position].image.digest for position in order])
        np.testing.assert_array_equal(found, expected)
