"""The service behind the server: it admits requests, decodes their files, and gathers their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from headstart.features.device import cpu_count
from headstart.features.images.faults import Fault
from headstart.pipeline.predict.items import Scored
from headstart.pipeline.serve.batching import Batches
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.nearest import Nearest
from headstart.pipeline.serve.refusals import AGAIN, RefusalError
from headstart.pipeline.serve.served import Found, Pixels, Served, is_large, usable_header
from headstart.pipeline.serve.uploads import Upload

_BODIES = 8  # requests of `--max-bytes` that fit into the memory for requests
_MANY = 30  # classes; of more, the probabilities of all are given only if a request asks for them


@dataclass(frozen=True)
class Asked:
    """The options of a request.

    - `top`: how many of the likeliest classes to give
    - `probabilities`: whether to give the probabilities of all classes
    - `nearest`: how many of the nearest training images to give
    """

    top: int
    probabilities: bool
    nearest: int


class Service:
    """Classifies uploaded images. Threads decode the images and run the model.

    All methods except `close` must be called in the event loop.
    """

    def __init__(self, served: Served, config: ServeConfig, nearest: Nearest | None = None) -> None:
        self.served, self.config, self.nearest = served, config, nearest
        self.stopping = False
        self.answered = 0  # images
        self.requests = 0  # that have arrived and are not yet answered
        self._bytes = 0  # that have arrived, of requests that are not yet answered
        size, passes = served.images_per_pass, served.passes
        self._batches = Batches[Pixels, Found](served.answers, size, passes, config.wait / 1000)
        self._decoders = ThreadPoolExecutor(cpu_count(), "headstart-decoding")
        self._large_decoder = ThreadPoolExecutor(1, "headstart-large")
        self._large = asyncio.Lock()  # held by the large image that is decoded
        self._decoded = asyncio.Semaphore(2 * size * (passes + 1))  # images whose pixels are in memory
        self._batches.start()

    def close(self) -> None:
        """Classify the images that are decoded already, and then end the threads."""
        for decoders in (self._decoders, self._large_decoder):
            decoders.shutdown(cancel_futures=True)
        self._batches.close()

    @contextmanager
    def arriving(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts the bytes of a request. The context is open until the request is answered.

        Whenever bytes arrive, the caller must call the function with the number of these bytes. The function raises a
        RefusalError if the requests of all open contexts have too many bytes together.

        A RefusalError is also raised at the start, if the server is stopping or too many requests are unanswered.
        """
        if self.stopping:
            raise RefusalError(503, "the server is stopping", {"Connection": "close"})
        self._require_room()
        own = 0

        def arrived(size: int) -> None:
            nonlocal own
            if self._bytes + size > _BODIES * self.config.max_bytes:
                raise RefusalError(429, f"requests with {self._bytes} bytes are in work; try again", AGAIN)
            self._bytes += size
            own += size

        try:
            yield arrived
        finally:
            self._bytes -= own

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """While the context is open, count a request as unanswered.

        Raises a RefusalError if too many requests are unanswered already.
        """
        self._require_room()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def _require_room(self) -> None:
        if self.requests >= self.config.max_requests:
            raise RefusalError(429, f"{self.requests} requests are in work (--max-requests); try again", AGAIN)

    async def answers(self, uploads: Sequence[Upload], asked: Asked) -> list[dict[str, Any] | Fault]:
        """Return an entry for each of `uploads`: the answer (a JSON object), or the fault if the upload can't be used.

        Raises a RefusalError after `--timeout` seconds.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                return list(await asyncio.gather(*(self._answer(one, asked) for one in uploads)))
        except TimeoutError as error:
            sentence = f"no answer within {self.config.timeout:g} seconds (--timeout); try again with fewer files"
            raise RefusalError(504, sentence, AGAIN) from error

    async def _answer(self, upload: Upload, asked: Asked) -> dict[str, Any] | Fault:
        loop, data, name = asyncio.get_running_loop(), upload.data, upload.name
        header = await loop.run_in_executor(self._decoders, usable_header, data, name, self.served.max_pixels)
        if isinstance(header, Fault):
            return header
        large = is_large(header)
        decoders = self._large_decoder if large else self._decoders
        async with AsyncExitStack() as held:
            async with self._large if large else nullcontext():  # so a large image that waits holds nothing else
                await held.enter_async_context(self._decoded)
                with self._batches.coming():
                    pixels = await loop.run_in_executor(decoders, self.served.pixels, data, name, header)
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
        answer = {**answer, "unsure": answer.get("unsure", False), "unlike": answer.get("unlike")}
        if self.nearest and asked.nearest and found.features is not None:
            answer["nearest"] = self.nearest.of(found.features, asked.nearest)
        return answer
