"""A model that needs no network: bright images are dogs."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from fastapi.testclient import TestClient
from headstart.features.images.faults import Fault
from headstart.features.images.formats import Header
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.trust import Trust
from headstart.pipeline.serve.app import make_app
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.served import Found, Pixels
from headstart.pipeline.serve.service import Service
from PIL import Image


@dataclass
class Fake:
    """A model whose passes wait until `go` is set."""

    layout: Layout = field(default_factory=lambda: Layout(["cat", "dog"], 2, True, "head", Trust()))
    images_per_pass: int = 4
    passes: int = 2
    max_pixels: int = 1000
    batches: list[int] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def pixels(self, data: bytes, name: str, header: Header) -> Pixels | Fault:
        with Image.open(io.BytesIO(data)) as image:
            return [np.asarray(image.convert("RGB").resize((4, 4)))]

    def answers(self, images: Sequence[Pixels], number: int) -> Sequence[Found]:
        self.batches.append(len(images))
        assert self.go.wait(20)
        bright = [float(pixels[0].mean()) / 255 for pixels in images]
        return [Found(np.array([1 - one, one])) for one in bright]


def picture(brightness: int = 255, side: int = 8, kind: str = "PNG") -> bytes:
    """The bytes of a grey image."""
    Image.new("RGB", (side, side), (brightness,) * 3).save(data := io.BytesIO(), kind)
    return data.getvalue()


@contextmanager
def client_of(fake: Fake | None = None, **settings: object) -> Iterator[TestClient]:
    """A client of a server that answers by `fake`, by default at once."""
    if fake is None:
        (fake := Fake()).go.set()
    abstain = float(settings.get("abstain", 0.0))  # type: ignore[arg-type]
    fake.layout = replace(fake.layout, trust=Trust(abstain=abstain))
    service = Service(fake, ServeConfig(**settings))  # type: ignore[arg-type]
    app = make_app(service, "the head of fake", ["localhost", "here.example"])
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        client.app_state["service"] = service
        try:
            yield client
        finally:
            fake.go.set()
            service.close()
