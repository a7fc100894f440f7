"""`--layout v1` against lists that the last version before 0.2 made of the same trees."""

from pathlib import Path

import pytest
from headstart.features.errors import DataError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan
from headstart.pipeline.data.layouts_v1 import read_folder_v1
from PIL import Image

V1 = DataConfig(layout="v1")
FILES = """train/cat/0.png train/cat/deep/1.png train/cat/.hidden.png train/cat/Thumbs.db train/cat/@eaDir/2.png
train/cat/IMG_1.CR2 train/cat/IMG_1.JPG train/cat/.thumbnails/3.png train/cat/store/abc/fingerprint.json
train/cat/store/abc/4.png train/dog/#recycle/5.png train/dog/6.png train/@eaDir/7.png train/lost+found/8.png
train/.trash/9.png train/__MACOSX/10.png train/run/config.json train/run/head.keras train/run/11.png val/cat/12.png
val/dog/desktop.ini val/dog/13.png val/dog/picasa.ini Test/cat/14.png rejects.csv notes.txt x/15.png"""
CLASSES = ["@eaDir", "cat", "dog", "lost+found", "run"]
READ = """train/@eaDir/7.png train/cat/0.png train/cat/@eaDir/2.png train/cat/IMG_1.CR2 train/cat/IMG_1.JPG
train/cat/deep/1.png train/cat/store/abc/4.png train/dog/#recycle/5.png train/dog/6.png train/lost+found/8.png
train/run/11.png val/cat/12.png val/dog/13.png"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate(FILES.split()):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".JPG", ".CR2"):
            Image.new("RGB", (9, 9), (number * 8, 0, 0)).save(path, "JPEG" if path.suffix == ".JPG" else "PNG")
        else:
            path.write_text("")
    return tmp_path


def test_split_folders_are_read_with_the_clutter_of_then(data: Path) -> None:
    found = scan(data, config=V1)
    assert found.class_names == CLASSES
    assert [str(Path(one.image.path).relative_to(data)) for one in found.examples] == READ.split()
    places = [(found.class_names[one.label], one.split) for one in found.examples]
    assert places == [(name.split("/")[1], name.split("/")[0]) for name in READ.split()]
    assert (found.rejects, found.ignored) == ([], 13)


def test_class_folders_are_split_as_then(data: Path) -> None:
    found = scan(data / "train", config=V1)
    assert found.class_names == CLASSES
    inside = [name.removeprefix("train/") for name in READ.split() if name.startswith("train/")]
    assert [str(Path(one.image.path).relative_to(data / "train")) for one in found.examples] == inside
    assert [one.image.path.endswith("store/abc/4.png") for one in found.examples] == [
        one.split == "val" for one in found.examples
    ]


def test_a_link_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "cat" / "a").mkdir(parents=True)
    (tmp_path / "cat" / "a" / "1.jpg").touch()
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "same").symlink_to(tmp_path / "cat" / "a")
    assert read_folder_v1(tmp_path)[0] == [str(tmp_path / "cat" / "a" / "1.jpg")]


def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat" / "a").mkdir(parents=True)

    def refuse(folder: Path, onerror, **_):
        onerror(PermissionError(13, "Permission denied", f"{folder}/a"))

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(DataError, match="cat/a: can't be read: Permission denied"):
        read_folder_v1(tmp_path)
