"""Results of workers, as the driver names them and reads again what they could not. No Ray."""

from pathlib import Path
from typing import Any

import pytest
from headstart.features.cluster import scanning
from headstart.features.errors import DataError
from headstart.features.images.files import urls
from headstart.features.images.scan import Reject
from headstart.pipeline.predict.classifying import by_ray
from headstart.pipeline.predict.items import Item
from headstart.pipeline.predict.sources import Sources


def reject(path: str, reason: Any = "empty") -> Reject:
    return Reject(path, reason, "")


def test_two_names_of_one_file_have_a_row_each() -> None:
    given = [("/a/1.tif", "1.tif"), ("/a/2.png", "2.png"), ("/a/no.txt", "no.txt"), ("/a/1.tif", "/a/1.tif")]
    sent = ["/a/1.tif", "/a/1.tif#2", "/a/2.png", "/a/1.tif", "/a/1.tif#2"]
    items, others = by_ray._renamed([reject(path) for path in sent], given)
    assert [one.path for one in items] == ["1.tif", "1.tif#2", "2.png", "/a/1.tif", "/a/1.tif#2"]
    assert others == 1


def test_an_object_that_a_worker_could_not_read_is_read_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def classified(answers: Any, sources: Sources, *rest: Any) -> Any:
        asked.extend(sources.files)
        yield 0, 0, [reject(path, "crashed") for path in sources.files]

    monkeypatch.setattr(by_ray, "classified", classified)
    task: Any = type("Task", (), {"max_pixels": 1, "pages": "first"})
    items: list[Item] = [
        reject("s3://a/1.jpg", "unreadable"),
        reject("2.jpg", "corrupt"),
        reject("3.tif#2", "vanished"),
    ]
    found = by_ray._with_unread(None, task, Sources(["s3://a/1.jpg", "2.jpg", "3.tif"]), items)  # type: ignore[arg-type]
    assert [(one.path, getattr(one, "reason", "")) for one in found] == [
        ("s3://a/1.jpg", "crashed"),
        ("2.jpg", "corrupt"),
        ("3.tif#2", "vanished"),
    ]
    assert asked == ["s3://a/1.jpg"]


def test_a_node_without_credentials_says_so_before_its_first_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert urls.one_of_each_place(["x", "s3://a/1", "s3://a/2", "https://b/3"]) == ["s3://a/1", "https://b/3"]
    monkeypatch.setattr(
        urls, "_reader_of", lambda url: type("Reader", (), {"require_package": lambda self, url: None})()
    )
    for error, ends in ((DataError("s3: no credentials"), True), (OSError("no such object"), False)):

        def fail(url: str, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(urls, "version_of_url", fail)
        if ends:
            with pytest.raises(DataError, match="no credentials"):
                urls.require_credentials(["s3://a/1"])
        else:
            urls.require_credentials(["s3://a/1"])


def test_a_node_is_blind_if_the_driver_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "a.tar").write_bytes(b"\0" * 512 + b"\xff\xd8")
    for path in ("1.jpg", "a.tar/2.jpg#512+2"):
        assert "which the driver can" in scanning.why_blind([f"{tmp_path}/{path}"], 1)
        assert not scanning.why_blind([f"{tmp_path}/{path}"], 2)
    assert not scanning.why_blind([f"{tmp_path}/gone.jpg"], 1)
