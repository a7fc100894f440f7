from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from features.images import ImageConfig
from pipeline.examples import Example, scan
from pipeline.inputs import augment_image, eval_dataset, train_dataset

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


@pytest.mark.parametrize("augment", ["none", "flip", "standard"])
def test_order_and_augmentation_follow_from_seed_and_epoch(examples, augment: str) -> None:
    first, again = joined(train_batches(examples, 1, augment)), joined(train_batches(examples, 1, augment))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (train_batches(examples, 2, augment), train_batches(examples, 1, augment, seed=1)):
        assert not np.array_equal(first[0], joined(other)[0])


def test_each_pass_asks_for_its_epoch(examples) -> None:
    epochs = iter((4, 5))
    dataset = train_dataset(examples, CONFIG, 8, "none", 0, lambda: next(epochs))
    for epoch in (4, 5):
        np.testing.assert_array_equal(joined(dataset.as_numpy_iterator())[0], joined(train_batches(examples, epoch))[0])


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
