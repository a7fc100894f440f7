"""The HTTP interface: answers, refusals, and which requests share a pass."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from headstart.features.device import cpu_count
from headstart.features.errors import OptionError
from headstart.features.images.faults import Fault
from headstart.features.images.formats import Header
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.trust import Trust
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.served import Pixels
from headstart.tests.pipeline.serve.fake import Fake, client_of, picture

FORM = "multipart/form-data; boundary=x"


def sent(client, *files: bytes, **query: int):
    named = [("files", (f"{number}.png", data)) for number, data in enumerate(files)]
    return client.post("/predict", files=named, params=query)


def body(data: bytes, end: bytes = b"\r\n--x--\r\n") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + data + end


def refused(response, status: int) -> str:
    assert response.status_code == status, response.text
    sentence = response.json()["error"]
    assert "\n" not in sentence
    return sentence


def test_files_are_answered_in_order() -> None:
    with client_of(abstain=0.9) as client:
        response = sent(client, picture(255), b"text", picture(51))
        assert response.status_code == 200
        first, second, third = response.json()["answers"]
        assert (first["label"], first["probability"], first["unsure"], first["unlike"]) == ("dog", 1.0, False, None)
        assert second["rejected"] == "not-an-image"
        assert third["label"] == "cat"
        assert third["unsure"]
        assert third["probabilities"] == {"cat": pytest.approx(0.8), "dog": pytest.approx(0.2)}
        assert [one["label"] for one in third["top"]] == ["cat", "dog"]
        assert [one["file"] for one in (first, second, third)] == ["0.png", "1.png", "2.png"]
        assert len(sent(client, picture(), top=1).json()["answers"][0]["top"]) == 1
        assert client.get("/health").json() == {"status": "ready", "model": "head", "requests": 0, "answered": 3}
        labels = client.get("/labels").json()
        assert (labels["labels"], labels["limits"]["pixels"]) == (["cat", "dog"], 1000)


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ([b"text"], 415, "not-an-image"),
        ([b""], 415, "empty"),
        ([picture(side=100)], 413, "100 x 100 pixels, over --max-pixels 1000"),
        ([picture()[:20]], 422, "truncated"),
        ([b"text", picture()[:20]], 422, "none of 2 files"),
    ],
    ids=str,
)
def test_files_that_can_not_be_used(files: list[bytes], status: int, said: str) -> None:
    with client_of() as client:
        assert said in refused(sent(client, *files), status)


def test_requests_that_are_no_form_with_files() -> None:
    with client_of(max_bytes=4096, max_files=2) as client:
        assert "multipart/form-data" in refused(client.post("/predict", content=b"{}"), 415)
        assert "http" not in refused(client.post("/predict", json={"url": "http://127.0.0.1/a.png"}), 415)
        assert "no file" in refused(client.post("/predict", files={"a": (None, "text")}), 422)
        assert "at most 4096 bytes" in refused(sent(client, b"0" * 5000), 413)
        assert "at most 2 files" in refused(sent(client, *[picture()] * 3), 413)
        plain = {"headers": {"Content-Type": FORM}}
        half = client.post("/predict", content=body(picture(), b""), **plain)
        assert "ended within its files" in refused(half, 400)
        assert "damaged" in refused(client.post("/predict", content=b"no boundary", **plain), 400)
        assert "boundary" in refused(client.post("/predict", content=b"", headers={"Content-Type": FORM[:19]}), 400)
        long = {"headers": {"Content-Type": FORM + "x" * 300}}
        assert "damaged" in refused(client.post("/predict", content=b"", **long), 400)
        parts = iter([body(b"0" * 3000, b""), b"0" * 3000])  # without a Content-Length
        assert "at most 4096 bytes" in refused(client.post("/predict", content=parts, **plain), 413)
        assert client.post("/predict", content=body(picture()), **plain).status_code == 200


@pytest.mark.parametrize("header", [b"X: " + b"0" * 9000, b"X: 0\r\n" * 2500 + b"Y: 0"], ids=["long", "many"])
def test_a_form_with_a_large_head_is_refused(header: bytes) -> None:
    with client_of() as client:
        form = b"--x\r\n" + header + b"\r\n\r\n0\r\n--x--\r\n"
        refused(client.post("/predict", content=form, headers={"Content-Type": FORM}), 400)


def test_clients_can_not_write_to_the_console(caplog: pytest.LogCaptureFixture) -> None:
    with client_of() as client:
        for form in (b"no boundary", body(picture()) + b"more", b"--x\r\n\xff: 1\r\n\r\n", b"\r\n\n--x--"):
            client.post("/predict", content=form, headers={"Content-Type": FORM})
    assert not [one for one in caplog.records if one.name.startswith("python_multipart")]


@pytest.mark.parametrize("path", ["/", "/health", "/labels", "/openapi.json", "/favicon.ico"])
def test_head_is_answered_where_get_is(path: str) -> None:
    with client_of() as client:
        assert client.head(path).status_code == client.get(path).status_code < 300
        assert "head" not in client.get("/openapi.json").json()["paths"].get(path, {})


def test_errors_are_json() -> None:
    with client_of() as client:
        assert "/predict" in refused(client.get("/nothing"), 404)
        assert "/predict" in refused(client.get("/predict"), 405)
        assert "top" in refused(sent(client, picture(), top=0), 422)
        assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
        paths = client.get("/openapi.json").json()["paths"]
        assert paths.keys() == {"/predict", "/labels", "/health"}
        assert {"413", "415", "422", "429", "503", "504"} <= paths["/predict"]["post"]["responses"].keys()
    broken = Fake()
    broken.answers = lambda images, number: []  # type: ignore[method-assign]
    with client_of(broken) as client:
        assert "console" in refused(sent(client, picture()), 500)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.0.7", "HERE.example"])
def test_own_names(host: str) -> None:
    with client_of() as client:
        assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:8000"])
def test_other_names_are_refused(host: str) -> None:
    with client_of() as client:
        assert "--allow-host" in refused(client.get("/labels", headers={"Host": host}), 421)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_pages_of_other_sites_get_no_answer(headers: dict[str, str]) -> None:
    with client_of() as client:
        response = client.post("/predict", files={"files": picture()}, headers=headers)
        assert "another site" in refused(response, 403)
        assert client.post("/predict", files={"files": picture()}, headers={"Origin": "http://localhost"}).is_success


def test_the_page_behind_a_proxy_is_the_servers_own() -> None:
    with client_of(allow_host=("Photos.example.",)) as client:
        for origin, status in (("https://photos.example", 200), ("http://localhost:1", 403)):
            response = client.post("/predict", files={"files": picture()}, headers={"Origin": origin})
            assert response.status_code == status


def test_the_page_loads_nothing_from_elsewhere() -> None:
    with client_of() as client:
        response = client.get("/")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy + response.text
        assert "connect-src 'self'" in policy
        assert client.get("/labels").headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_images_that_come_together_share_a_pass() -> None:
    fake = Fake(passes=1)
    with client_of(fake, wait=200.0) as client, ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(sent, client, picture(number)) for number in range(0, 80, 10)]
        until(lambda: fake.batches == [4])  # a full batch does not wait
        fake.go.set()
        assert {one.result().status_code for one in answers} == {200}
        assert fake.batches == [4, 4]
        began = time.monotonic()
        assert sent(client, picture()).status_code == 200
        assert fake.batches == [4, 4, 1]
        assert time.monotonic() - began >= 0.2


def test_too_many_requests_are_told_to_come_again() -> None:
    fake = Fake()
    with client_of(fake, max_requests=2) as client, ThreadPoolExecutor(3) as pool:
        service = client.app_state["service"]
        held = [pool.submit(sent, client, picture()) for _ in range(2)]
        until(lambda: service.requests == 2)
        response = sent(client, picture())
        assert "2 requests are in work" in refused(response, 429)
        assert response.headers["Retry-After"] == "1"
        service.stopping = True
        assert "stopping" in refused(sent(client, picture()), 503)
        assert client.get("/health").status_code == 503
        fake.go.set()
        assert [one.result().status_code for one in held] == [200, 200]
        assert service.requests == 0


def test_bytes_in_work_are_limited() -> None:
    fake = Fake(max_pixels=10**6)
    with client_of(fake, max_bytes=1024, max_requests=100) as client, ThreadPoolExecutor(20) as pool:
        large = picture() + b"0" * 700
        answers = [pool.submit(sent, client, large) for _ in range(20)]
        until(lambda: sum(one.done() for one in answers) >= 11)
        fake.go.set()
        codes = sorted(one.result().status_code for one in answers)
        assert set(codes) == {200, 429}
        assert 7 <= codes.count(200) <= 9


def test_clients_that_send_slowly_hold_only_their_bytes() -> None:
    with client_of(max_bytes=1024, max_requests=1) as client, ExitStack() as slow:
        for _ in range(50):
            slow.enter_context(client.app_state["service"].arriving())(100)
        assert sent(client, picture()).status_code == 200
        slow.enter_context(client.app_state["service"].arriving())(3150)
        assert "requests with 8150 bytes" in refused(sent(client, picture()), 429)
        slow.close()
        assert sent(client, picture()).status_code == 200


def test_large_images_that_wait_hold_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.pipeline.serve.served._LARGE", 100)
    go, fake = threading.Event(), Fake()
    fake.go.set()

    def pixels(data: bytes, name: str, header: Header) -> Pixels | Fault:
        assert header.width < 20 or go.wait(20)
        return Fake.pixels(fake, data, name, header)

    monkeypatch.setattr(fake, "pixels", pixels)
    large = cpu_count() + 50
    with client_of(fake, max_files=100) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sent, client, *[picture(side=20)] * large)
        until(lambda: client.app_state["service"].requests == 1)
        assert sent(client, picture()).status_code == 200
        assert not waiting.done()
        go.set()
        assert [one["label"] for one in waiting.result().json()["answers"]] == ["dog"] * large


def test_names_that_are_not_utf_8_are_answered() -> None:
    (fake := Fake(layout=Layout(["cat", "d\udcffg"], 2, True, "head", Trust()))).go.set()
    with client_of(fake) as client:
        assert client.get("/labels").json()["labels"] == ["cat", "d\udcffg"]
        assert sent(client, picture()).json()["answers"][0]["label"] == "d\udcffg"
        assert client.get("/").status_code == 200


def test_an_answer_that_takes_too_long() -> None:
    fake = Fake()
    with client_of(fake, timeout=0.2) as client:
        assert "no answer within 0.2 seconds" in refused(sent(client, picture()), 504)
        fake.go.set()
        assert client.app_state["service"].requests == 0


def test_nothing_reaches_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", fail)
    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with client_of() as client:
        assert sent(client, picture() + bytes(3 << 20)).status_code == 200  # Starlette would spool it from 1 MiB on


def until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_wrong_settings() -> None:
    for name, value in {"port": 70_000, "max_bytes": 1, "max_files": 0, "timeout": 0.0, "abstain": 2.0}.items():
        with pytest.raises(OptionError, match=name.replace("_", "-")):
            ServeConfig(**{name: value})


def test_a_host_is_a_name_alone() -> None:
    for name in ("photos.example:8000", "https://photos.example", "photos.example/a", "[::1]", "münchen.example", ""):
        with pytest.raises(OptionError, match=r"^--allow-host .*: give a name alone, without port or path"):
            ServeConfig(allow_host=(name,))
    ServeConfig(allow_host=("photos", "Photos.Example.", "192.168.0.7", "::1", "xn--mnchen-3ya.example"))


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from headstart.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: serve: needs fastapi, which is not installed: `pip install 'headstart[serve]'`\n"
    assert done.stdout == ""
