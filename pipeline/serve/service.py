"""The service behind the server: it admits requests, decodes their files, and gathers their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from headstart.features.device import cpu_count
from headstart.features.images.faults import Fault
from headstart.pipeline.predict.items import Scored
from headstart.pipeline.serve.batching import Batches
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.nearest import Nearest
from headstart.pipeline.serve.refusals import AGAIN, RefusalError
from headstart.pipeline.serve.served import Found, Pixels, Served
from headstart.pipeline.serve.uploads import Upload

_BODIES = 8  # requests of `--max-bytes` that may be in memory at once
_MANY = 30  # classes; with more, all probabilities are given only to a request that asks for them


@dataclass(frozen=True)
class Asked:
    """The options of a request: how many likeliest classes, whether all probabilities, and how many nearest images."""

    top: int
    probabilities: bool
    nearest: int


class Service:
    """Classifies uploaded images. The methods run in the event loop. Threads decode the images and run the model."""

    def __init__(self, served: Served, config: ServeConfig, nearest: Nearest | None = None) -> None:
        self.served, self.config, self.nearest = served, config, nearest
        self.stopping = False
        self.answered = 0  # images
        self.requests = 0  # admitted and not yet answered
        self._bytes = 0  # the bytes of these requests
        size, passes = served.images_per_pass, served.passes
        self._batches = Batches[Pixels, Found](served.answers, size, passes, config.wait / 1000)
        self._decoders = ThreadPoolExecutor(cpu_count(), "headstart-decoding")
        self._decoded = asyncio.Semaphore(2 * size * (passes + 1))  # images whose pixels are in memory
        self._batches.start()

    def close(self) -> None:
        """Classify all images that are already decoded, and end the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._batches.close()

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Count a request of `size` bytes as admitted within the block.

        Raises a RefusalError in three cases: the server is stopping; too many requests are admitted and not yet
        answered; these requests and the new one have too many bytes together.
        """
        if self.stopping:
            raise RefusalError(503, "the server is stopping", {"Connection": "close"})
        if self.requests >= self.config.max_requests:
            raise RefusalError(429, f"{self.requests} requests are in work (--max-requests); try again", AGAIN)
        if self.requests and self._bytes + size > _BODIES * self.config.max_bytes:
            raise RefusalError(429, f"requests with {self._bytes} bytes are in work; try again", AGAIN)
        self.requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self._bytes -= size

    async def answers(self, uploads: Sequence[Upload], asked: Asked) -> list[dict[str, Any] | Fault]:
        """Return a list with an entry for each of `uploads`: the answer, which is a JSON object, or the fault.

        Raises a RefusalError after `--timeout` seconds.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                return list(await asyncio.gather(*(self._answer(one, asked) for one in uploads)))
        except TimeoutError as error:
            sentence = f"no answer within {self.config.timeout:g} seconds (--timeout); try again with fewer files"
            raise RefusalError(504, sentence, AGAIN) from error

    async def _answer(self, upload: Upload, asked: Asked) -> dict[str, Any] | Fault:
        async with self._decoded:
            with self._batches.coming():
                decode = self.served.pixels
                loop = asyncio.get_running_loop()
                pixels = await loop.run_in_executor(self._decoders, decode, upload.data, upload.name)
                if isinstance(pixels, Fault):
                    return pixels
                future = self._batches.submit(pixels)
            found = await asyncio.wrap_future(future)
        self.answered += 1
        return self._shown(upload, found, asked)

    def _shown(self, upload: Upload, found: Found, asked: Asked) -> dict[str, Any]:
        layout = replace(self.served.layout, top=min(max(asked.top, 2), len(self.served.layout.class_names)))
        layout = replace(layout, every=asked.probabilities or len(layout.class_names) <= _MANY)
        shown = layout.prediction(Scored(upload.name, found.chances, found.distance))
        answer = {"file": shown.pop("path"), **shown}
        answer["top"] = answer["top"][: asked.top]
        answer = {"unsure": False, "unlike": None, **answer}
        if self.nearest and asked.nearest and found.features is not None:
            answer["nearest"] = self.nearest.of(found.features, asked.nearest)
        return answer
