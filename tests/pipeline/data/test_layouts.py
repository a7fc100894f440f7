"""Listings of real archives, and what a person would read in them."""

import os
import re
import signal
import time
from collections.abc import Iterable, Sequence

import pytest
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.data.config import DataConfig, Layout
from headstart.pipeline.data.layouts import Reading, read_layout
from headstart.pipeline.data.names import splits_named
from headstart.pipeline.data.reading import read_names
from hypothesis import given
from hypothesis import strategies as st

CATS, TWO = ("cats", "dogs"), ("A", "B")


def classes(prefix: str, names: Iterable[str], suffix: str = "jpg", count: int = 4) -> list[str]:
    return [f"{prefix}{name}/{number}.{suffix}" for name in names for number in range(count)]


def flat(pattern: str, count: int = 4) -> list[str]:
    return [pattern.format(number) for number in range(count)]


def placed(reading: Reading) -> dict[str, set[str]]:
    """The classes of each split."""
    found: dict[str, set[str]] = {}
    for split, label in zip(reading.splits, reading.labels, strict=True):
        if label is not None:
            found.setdefault(split, set()).add(label)
    return found


def splits(*names: str, of: Sequence[str]) -> dict[str, set[str]]:
    return {name: set(of) for name in names}


def unsplit(*names: str) -> dict[str, set[str]]:
    return {"": set(names)}


READ = {
    "Dogs vs Cats, the competition": (
        [*flat("train/cat.{}.jpg"), *flat("train/dog.{}.jpg"), *flat("test1/{}.jpg"), "sampleSubmission.csv"],
        unsplit("cat", "dog"),
    ),
    "Dogs vs Cats Redux": (
        [*flat("train/cat.{}.jpg"), *flat("train/dog.{}.jpg"), *flat("test/{}.jpg"), "sample_submission.csv"],
        unsplit("cat", "dog"),
    ),
    "Dogs vs Cats, train.zip alone": ([*flat("train/cat.{}.jpg"), *flat("train/dog.{}.jpg")], unsplit("cat", "dog")),
    "PetImages": (
        [*classes("PetImages/", ("Cat", "Dog")), "MSR-LA - 3467.docx", "readme[1].txt"],
        unsplit("Cat", "Dog"),
    ),
    "cats_and_dogs_filtered": (
        [
            *classes("cats_and_dogs_filtered/train/", CATS),
            *classes("cats_and_dogs_filtered/validation/", CATS),
            "cats_and_dogs_filtered/vectorize.py",
        ],
        splits("train", "val", of=CATS),
    ),
    "a course's cats and dogs": (
        [*classes("training_set/training_set/", CATS), *classes("test_set/test_set/", CATS)],
        splits("train", "test", of=CATS),
    ),
    "CUB-200": (
        [
            *classes("CUB_200_2011/images/", ("001.Black_footed_Albatross", "002.Laysan_Albatross")),
            "CUB_200_2011/classes.txt",
            "CUB_200_2011/attributes/class_attribute_labels_continuous.txt",
            *classes("segmentations/", ("001.Black_footed_Albatross", "002.Laysan_Albatross"), "png"),
        ],
        unsplit("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    ),
    "Food-101": (
        [
            *classes("food-101/images/", ("apple_pie", "baby_back_ribs")),
            "food-101/meta/train.txt",
            "food-101/README.txt",
        ],
        unsplit("apple_pie", "baby_back_ribs"),
    ),
    "chest X-rays, with its second copy": (
        [
            *classes("chest_xray/train/", ("NORMAL", "PNEUMONIA"), "jpeg"),
            *classes("chest_xray/val/", ("NORMAL", "PNEUMONIA"), "jpeg"),
            *classes("chest_xray/test/", ("NORMAL", "PNEUMONIA"), "jpeg"),
            *classes("chest_xray/chest_xray/train/", ("NORMAL", "PNEUMONIA"), "jpeg"),
            *classes("chest_xray/chest_xray/val/", ("NORMAL", "PNEUMONIA"), "jpeg"),
            *classes("chest_xray/chest_xray/test/", ("NORMAL", "PNEUMONIA"), "jpeg"),
        ],
        splits("train", "val", "test", of=("NORMAL", "PNEUMONIA")),
    ),
    "malaria, with its second copy": (
        [
            *classes("cell_images/", ("Parasitized", "Uninfected"), "png"),
            *classes("cell_images/cell_images/", ("Parasitized", "Uninfected"), "png"),
        ],
        unsplit("Parasitized", "Uninfected"),
    ),
    "EuroSAT": (
        [*flat("2750/AnnualCrop/AnnualCrop_{}.jpg"), *flat("2750/Forest/Forest_{}.jpg")],
        unsplit("AnnualCrop", "Forest"),
    ),
    "Stanford Dogs": (
        [
            *classes("Images/", ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")),
            "Annotation/n02085620-Chihuahua/n02085620_10074",
        ],
        unsplit("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
    ),
    "Stanford Cars by folder": (
        [*classes("car_data/car_data/train/", TWO), *classes("car_data/car_data/test/", TWO), "names.csv"],
        splits("train", "test", of=TWO),
    ),
    "ImageNet": (
        [
            *classes("ILSVRC/Data/CLS-LOC/train/", ("n01440764", "n01443537"), "JPEG"),
            *flat("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_0000000{}.JPEG"),
            *flat("ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_0000000{}.JPEG"),
            "ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_10040.xml",
            "LOC_val_solution.csv",
        ],
        unsplit("n01440764", "n01443537"),
    ),
    "Tiny ImageNet": (
        [
            *flat("tiny-imagenet-200/train/n01443537/images/n01443537_{}.JPEG"),
            *flat("tiny-imagenet-200/train/n01629819/images/n01629819_{}.JPEG"),
            "tiny-imagenet-200/train/n01443537/n01443537_boxes.txt",
            *flat("tiny-imagenet-200/val/images/val_{}.JPEG"),
            "tiny-imagenet-200/val/val_annotations.txt",
            *flat("tiny-imagenet-200/test/images/test_{}.JPEG"),
        ],
        unsplit("n01443537", "n01629819"),
    ),
    "Imagenette": (
        [
            *classes("imagenette2/train/", ("n01440764", "n02102040"), "JPEG"),
            *classes("imagenette2/val/", ("n01440764", "n02102040"), "JPEG"),
            "imagenette2/noisy_imagenette.csv",
        ],
        splits("train", "val", of=("n01440764", "n02102040")),
    ),
    "Intel scenes": (
        [
            *classes("seg_train/seg_train/", ("sea", "street")),
            *classes("seg_test/seg_test/", ("sea", "street")),
            *flat("seg_pred/seg_pred/{}.jpg"),
        ],
        splits("train", "test", of=("sea", "street")),
    ),
    "Caltech-101": (
        [
            *classes("101_ObjectCategories/", ("accordion", "BACKGROUND_Google")),
            "Annotations/accordion/annotation_0001.mat",
        ],
        unsplit("accordion", "BACKGROUND_Google"),
    ),
    "Caltech-256": (
        [
            *classes("256_ObjectCategories/", ("001.ak47", "056.dog"), count=40),
            "256_ObjectCategories/056.dog/greg/vision309/x.jpg",
            "256_ObjectCategories/198.spider/RENAME2",
        ],
        unsplit("001.ak47", "056.dog"),
    ),
    "MNIST as PNG": (
        [*classes("mnist_png/training/", "01", "png"), *classes("mnist_png/testing/", "01", "png")],
        splits("train", "test", of="01"),
    ),
    "GTSRB": (
        [
            *classes("Train/", ("0", "1"), "png"),
            *flat("Test/0000{}.png"),
            *flat("Meta/{}.png"),
            *("Train.csv", "Test.csv", "Meta.csv"),
        ],
        unsplit("0", "1"),
    ),
    "brain tumours": (
        [*classes("Training/", ("glioma", "notumor")), *classes("Testing/", ("glioma", "notumor"))],
        splits("train", "test", of=("glioma", "notumor")),
    ),
    "Alzheimer": (
        [
            *classes("Alzheimer_s Dataset/train/", ("MildDemented", "NonDemented")),
            *classes("Alzheimer_s Dataset/test/", ("MildDemented", "NonDemented")),
        ],
        splits("train", "test", of=("MildDemented", "NonDemented")),
    ),
    "Fruits-360": (
        [
            *classes("fruits-360/Training/", ("Apple Braeburn", "Banana")),
            *classes("fruits-360/Test/", ("Apple Braeburn", "Banana")),
            *flat("fruits-360/papers/{}.jpg"),
            "fruits-360/LICENSE",
        ],
        splits("train", "test", of=("Apple Braeburn", "Banana")),
    ),
    "100 sports": (
        [
            *classes("train/", ("archery", "boxing")),
            *classes("valid/", ("archery", "boxing")),
            *classes("test/", ("archery", "boxing")),
            *flat("images to predict/{}.jpg"),
            "sports.csv",
        ],
        splits("train", "val", "test", of=("archery", "boxing")),
    ),
    "ASL alphabet": (
        [
            *classes("asl_alphabet_train/asl_alphabet_train/", TWO),
            "asl_alphabet_test/asl_alphabet_test/A_test.jpg",
            "asl_alphabet_test/asl_alphabet_test/B_test.jpg",
        ],
        unsplit("A", "B"),
    ),
    "FER-2013": (
        [*classes("train/", ("angry", "sad")), *classes("test/", ("angry", "sad"))],
        splits("train", "test", of=("angry", "sad")),
    ),
    "UC Merced": (
        [*classes("UCMerced_LandUse/Images/", ("agricultural", "airplane"), "tif"), "UCMerced_LandUse/readme.txt"],
        unsplit("agricultural", "airplane"),
    ),
    "MIT indoor": (classes("Images/", ("airport_inside", "bakery")), unsplit("airport_inside", "bakery")),
    "DTD": ([*classes("dtd/images/", ("banded", "blotchy")), "dtd/labels/train1.txt"], unsplit("banded", "blotchy")),
    "LFW": (
        ["lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg", "lfw/Abel_Pacheco/Abel_Pacheco_0001.jpg"],
        unsplit("Aaron_Eckhart", "Abel_Pacheco"),
    ),
    "plant seedlings": (
        [*classes("train/", ("Black-grass", "Maize"), "png"), *flat("test/{}.png"), "sample_submission.csv"],
        unsplit("Black-grass", "Maize"),
    ),
    "State Farm": (
        [*classes("imgs/train/", ("c0", "c1")), *flat("imgs/test/img_{}.jpg"), "driver_imgs_list.csv"],
        unsplit("c0", "c1"),
    ),
    "Places365": (
        [
            *classes("places365_standard/train/", ("airfield", "alley")),
            *classes("places365_standard/val/", ("airfield", "alley")),
            "places365_standard/train.txt",
        ],
        splits("train", "val", of=("airfield", "alley")),
    ),
    "a test set alone": (classes("test/", CATS), splits("test", of=CATS)),
    "val and test alone": ([*classes("val/", CATS), *classes("test/", CATS)], splits("val", "test", of=CATS)),
    "splits inside the classes": (
        [*classes("cats/", ("train", "test")), *classes("dogs/", ("train", "test"))],
        splits("train", "test", of=CATS),
    ),
    "Train and Validation": (
        [*classes("Train/", CATS), *classes("Validation/", CATS)],
        splits("train", "val", of=CATS),
    ),
    "dev and holdout": (
        [*classes("photos/training/", CATS), *classes("photos/dev/", CATS), *classes("photos/hold-out/", CATS)],
        splits("train", "val", "test", of=CATS),
    ),
    "a class that is called like a split": (classes("", ("test", "odi", "t20")), unsplit("test", "odi", "t20")),
    "a folder below each class": ([*flat("cats/images/{}.jpg"), *flat("dogs/images/{}.jpg")], unsplit("cats", "dogs")),
    "a few images beside the classes": ([*classes("", CATS, count=40), "cover.jpg"], unsplit("cats", "dogs")),
    "one name in two Unicode forms": (
        ["caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "tea/3.jpg"],
        unsplit("caf\u00e9", "tea"),
    ),
}

READ |= {
    "splits with a word at the end": (
        [*classes("pets_train_photos/", CATS), *classes("pets_test_photos/", CATS)],
        splits("train", "test", of=CATS),
    ),
    "COVID-19 radiography": (
        [
            f"COVID-19_Radiography_Dataset/{name}/{folder}/{name}-{number}.png"
            for name in ("COVID", "Normal")
            for folder in ("images", "masks")
            for number in range(4)
        ],
        unsplit("COVID", "Normal"),
    ),
    "masks with a name of their own": (
        [*classes("images/", CATS), *(f"masks/{name}/{n}_mask.png" for name in CATS for n in range(4))],
        unsplit(*CATS),
    ),
    "face masks": (
        [f"{name}/{name}_{number}.jpg" for name in ("with_mask", "without_mask") for number in range(4)],
        unsplit("with_mask", "without_mask"),
    ),
}

REFUSED = {
    "CycleGAN": (
        [path for name in ("trainA", "trainB", "testA", "testB") for path in flat(f"horse2zebra/{name}/n0{{}}.jpg")],
        "look like splits",
    ),
    "splits and something else": (
        [*classes("train_v2/", CATS), *classes("test_v2/", CATS), *flat("sample/{}.jpg")],
        "look like splits",
    ),
    "a class called mask": (
        [*classes("", ("cat", "dog", "mask"))],
        r"mask/ has the file names of the folders beside it.*--layout outer",
    ),
    "half of the images in no folder": ([*classes("", CATS), *flat("{}.jpg", 9)], "9 images lie beside these folders"),
    "PlantVillage": (
        [
            *classes("PlantVillage/color/", ("Apple", "Corn", "Potato")),
            *classes("PlantVillage/grayscale/", ("Apple", "Corn", "Potato")),
        ],
        r"color/ .*grayscale/ .*--layout outer or --layout inner",
    ),
    "fruits and vegetables": (
        [*classes("fruits/", ("apple", "pear")), *classes("vegetables/", ("carrot", "pea"))],
        "these 2, or the 4 folders in them",
    ),
    "several depths": (
        [*classes("", ("cat",)), *classes("more/", ("dog", "bird"))],
        r"cat/ \(4 images\), more/ \(2 folders",
    ),
    "HAM10000": (
        [
            *flat("HAM10000_images_part_1/ISIC_{}.jpg"),
            *flat("HAM10000_images_part_2/ISIC_{}.jpg"),
            "HAM10000_metadata.csv",
        ],
        "parts of one set",
    ),
    "NIH chest X-rays": (
        [*flat("images_001/images/0000{}_000.png"), *flat("images_002/images/0001{}_000.png")],
        "parts of",
    ),
    "a split and a folder of classes beside it": (
        [*classes("train/", CATS), *classes("test/", CATS), *classes("extra/", CATS)],
        r"some folders are named like splits, others are not",
    ),
    "two folders for one split": ([*classes("train/", CATS), *classes("training_set/", CATS)], "named like one split"),
    "rock, paper, scissors": (
        [*classes("rps/", TWO), *classes("rps-test-set/", TWO)],
        "--layout outer or --layout inner",
    ),
}

WITHOUT_LABELS = {
    "Planet": [*flat("train-jpg/train_{}.jpg"), *flat("test-jpg/test_{}.jpg")],
    "Galaxy Zoo": [*flat("images_training_rev1/1000{}.jpg"), *flat("images_test_rev1/1001{}.jpg")],
    "DIV2K": [*flat("DIV2K_train_HR/000{}.png"), *flat("DIV2K_valid_HR/080{}.png")],
    "ISIC 2019": [*flat("ISIC_2019_Training_Input/ISIC_00{}.jpg"), *flat("ISIC_2019_Test_Input/ISIC_01{}.jpg")],
    "ISIC 2018": [
        *flat("ISIC2018_Task1-2_Training_Input/ISIC_000{}.jpg"),
        *flat("ISIC2018_Task1_Training_GroundTruth/ISIC_000{}_segmentation.png"),
    ],
    "Carvana": [*flat("train/0cdf_0{}.jpg"), *flat("train_masks/0cdf_0{}_mask.gif")],
    "Oxford pets": [
        *flat("images/Abyssinian_{}.jpg"),
        *flat("images/pug_{}.jpg"),
        *flat("annotations/trimaps/pug_{}.png"),
    ],
    "Flowers-102": [*flat("jpg/image_0000{}.jpg"), "imagelabels.mat", "setid.mat"],
    "Cassava": [*flat("train_images/10000{}.jpg"), *flat("test_images/2000{}.jpg"), "train.csv"],
    "dog-breed-identification": [*flat("train/00{}a.jpg"), *flat("test/00{}b.jpg"), "labels.csv"],
    "COCO": [*flat("train2017/00{}.jpg"), *flat("val2017/00{}.jpg"), "annotations/instances_train2017.json"],
    "YOLO": [*flat("train/images/{}.jpg"), *flat("train/labels/{}.txt"), *flat("valid/images/{}.jpg")],
    "VOC": [*flat("VOC2012/JPEGImages/2007_{}.jpg"), *flat("VOC2012/SegmentationClass/2007_{}.png", 2)],
}


@pytest.mark.parametrize("name", READ)
def test_archives_are_read_as_a_person_would(name: str) -> None:
    paths, expected = READ[name]
    reading = read_layout(paths, name)
    assert placed(reading) == expected
    assert any(str(len(next(iter(expected.values())))) in line for line in reading.lines), reading.lines


@pytest.mark.parametrize("name", REFUSED)
def test_where_a_person_would_ask_the_possible_readings_are_named(name: str) -> None:
    paths, said = REFUSED[name]
    with pytest.raises(DataError, match=said) as refused:
        read_layout(paths, "DATA")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("DATA: ")


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_images_without_classes_have_no_labels(name: str) -> None:
    assert placed(read_layout(WITHOUT_LABELS[name], name)) == {}


@pytest.mark.parametrize(
    ("layout", "expected"), [("outer", {"color", "gray"}), ("inner", {"Apple", "Corn"}), ("none", set())]
)
def test_the_layout_can_be_said(layout: Layout, expected: set[str]) -> None:
    paths = [*classes("color/", ("Apple", "Corn")), *classes("gray/", ("Apple", "Corn"))]
    assert set(read_layout(paths, "x", layout).class_names) == expected


def test_classes_can_be_said() -> None:
    paths = [*classes("a/", CATS), *classes("b/", ("cats", "birds"))]
    assert placed(read_layout(paths, "x", classes=("cats", "birds"))) == unsplit("cats", "birds")
    with pytest.raises(DataError, match=r"--classes: .* fish"):
        read_layout(paths, "x", classes=("fish",))


LABEL = r"(?P<label>[a-z]+)_\d+\.jpg"


@pytest.mark.parametrize("pattern", [LABEL, "(?:.*/)?" + LABEL])
def test_names_give_labels_and_folders_give_splits(pattern: str) -> None:
    named = [f"{split}/{name}_{n}.jpg" for split in ("train", "Test") for name in CATS for n in range(3)]
    assert placed(read_layout(named, "x", label_from=pattern)) == splits("train", "test", of=CATS)
    assert placed(read_layout(named[:6], "x", label_from=pattern)) == unsplit(*CATS)
    shuffled = [f"images/{n % 2}/{os.path.basename(path)}" for n, path in enumerate(named)]
    assert placed(read_layout(shuffled, "x", label_from=pattern)) == unsplit(*CATS)


def test_a_name_without_a_label_is_told() -> None:
    named = [f"train/{name}_{n}.jpg" for name in CATS for n in range(30)]
    reading = read_layout([*named, "train/IMG.jpg"], "x", label_from=LABEL)
    assert placed(reading) == unsplit(*CATS)
    assert any("1 images without a label" in line and "train/IMG.jpg" in line for line in reading.lines)
    reading = read_layout([*named, *flat("test1/{}.jpg")], "x", label_from=LABEL)  # as Dogs vs Cats has it
    assert placed(reading) == unsplit(*CATS)
    assert any("test1/" in line and "left out" in line for line in reading.lines)
    with pytest.raises(DataError, match=f"finds no label in the names of {len(named)} of {len(named)}"):
        read_layout(named, "x", label_from="(?P<label>x*)")
    with pytest.raises(DataError, match="named like splits, others are not"):
        read_layout([*named, *flat("more/cats_{}.jpg")], "x", label_from=LABEL)


def test_a_file_without_suffix_has_no_label_where_the_images_beside_it_have_several() -> None:
    paths = [f"train/{name}.{n}.jpg" for name in CATS for n in range(3)]
    reading = read_layout([*paths, "train/unknown"], "x")
    assert reading.labels[-1] is None
    reading = read_layout([*classes("", CATS), f"{CATS[0]}/unknown"], "x")
    assert reading.labels[-1] == CATS[0]


def test_what_a_message_suggests_settles_the_question() -> None:
    paths, _ = REFUSED["a split and a folder of classes beside it"]
    assert placed(read_layout(paths, "x", classes=CATS)) == splits("train", "test", of=CATS)
    paths, _ = REFUSED["CycleGAN"]
    assert set(read_layout(paths, "x", "outer").class_names) == {"trainA", "trainB", "testA", "testB"}
    assert set(read_layout(paths, "x", classes=("trainA", "trainB")).class_names) == {"trainA", "trainB"}
    paths, _ = REFUSED["a class called mask"]
    for reading in (read_layout(paths, "x", "outer"), read_layout(paths, "x", classes=("cat", "dog", "mask"))):
        assert reading.class_names == ["cat", "dog", "mask"]
    paths, _ = REFUSED["half of the images in no folder"]
    assert read_layout(paths, "x", "outer").class_names == sorted(CATS)
    flat_test = [*classes("train/", TWO), *flat("test/{}.jpg")]
    assert placed(read_layout(flat_test, "x", classes=TWO)) == unsplit(*TWO)
    fewer = [*classes("train/", TWO), *classes("test/", TWO[:1])]
    assert placed(read_layout(fewer, "x", classes=TWO)) == {"train": set(TWO), "test": {"A"}}
    both = [*classes("train/", TWO), *classes("test/", TWO)]
    assert read_layout(both, "x", classes=("train", "test")).class_names == ["test", "train"]


def test_many_folders_take_little_time() -> None:
    paths = [f"class {number}/{number}.jpg" for number in range(20_000)]
    start = time.process_time()
    assert len(read_layout(paths, "x").class_names) == 20_000
    assert time.process_time() - start < 2


def test_files_without_a_suffix_are_told() -> None:
    reading = read_layout([*classes("", CATS), "fox/1", "fox/2"], "x")
    assert any("2 files without a suffix are left out, fox/1 the first" in line for line in reading.lines)


def test_what_is_left_out_is_told() -> None:
    paths = READ["Intel scenes"][0]
    assert any("seg_pred/ (4 images)" in line for line in read_layout(paths, "x").lines)
    assert any("Tea, tea differ in case only" in line for line in read_layout(classes("", ("tea", "Tea")), "x").lines)
    assert any(
        "trimaps" in line or "annotations/" in line for line in read_layout(WITHOUT_LABELS["Oxford pets"], "x").lines
    )


def test_empty_class_folders_are_classes() -> None:
    reading = read_layout(classes("train/", CATS), "x", empty=["train/birds", "notes"])
    assert reading.class_names == ["birds", "cats", "dogs"]


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@given(st.lists(st.lists(names, min_size=1, max_size=4).map("/".join), max_size=20, unique=True))
def test_any_listing_is_read_or_refused_in_one_line(paths: list[str]) -> None:
    try:
        reading = read_layout(paths, "x")
    except DataError as error:
        refused = str(error)
    else:
        refused = ""
        assert len(reading.splits) == len(reading.labels) == len(paths)
        assert set(reading.splits) <= {"", "train", "val", "test"}
    assert refused == "" or refused.startswith("x: ")


@given(
    st.sets(st.sampled_from(["apple", "pear", "plum", "fig"]), min_size=2),
    st.sampled_from(["train", "Training", "training_set", "TRAIN"]),
    st.sampled_from(["test", "Testing", "test_set", "eval", "holdout"]),
    st.sampled_from(["", "archive/", "a/b/"]),
)
def test_splits_in_all_spellings_and_below_any_folders(labels: set[str], train: str, test: str, above: str) -> None:
    paths = [*classes(f"{above}{train}/", labels), *classes(f"{above}{test}/", labels)]
    assert placed(read_layout(paths, "x")) == splits("train", "test", of=sorted(labels))


@pytest.mark.parametrize("option", ["--label-from", "--group"])
def test_an_expression_without_end_is_refused(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.pipeline.data.names._MATCH_SECONDS", 0.05)
    names = [*classes("", CATS), f"cats/{'a' * 40}b.jpg"]
    config = DataConfig(label_from=r"(?P<label>(a+)+)$") if option == "--label-from" else DataConfig(group=r"(a+)+c")
    before = signal.getitimer(signal.ITIMER_VIRTUAL), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(OptionError, match=re.escape(option) + r" .*: takes too long on '.*aaab\.jpg'"):
        read_names(names, "x", config)
    assert (signal.getitimer(signal.ITIMER_VIRTUAL), signal.getsignal(signal.SIGVTALRM)) == before


@pytest.mark.parametrize("start", ["seg_", "İ_", "\u0130\u0130-"])
def test_what_all_folders_share_is_ignored_in_any_alphabet(start: str) -> None:
    assert splits_named([f"{start}train", f"{start}test"]) == {f"{start}train": "train", f"{start}test": "test"}
