"""The settings of `serve`."""

import ipaddress
import re
from dataclasses import dataclass

from headstart.features.errors import OptionError, require_options
from headstart.features.options import option
from headstart.pipeline.predict.config import AskedModel

_MOST = 1 << 40
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.IGNORECASE)


@dataclass(frozen=True)
class ServeConfig:
    """The settings of `serve`: its address, its model and its limits.

    An invalid number or host name raises an OptionError.
    """

    host: str = option("127.0.0.1", "Address to listen on. By default, only this machine can connect.")
    port: int = option(8000, "Port to listen on. 0: any free port.")
    allow_host: tuple[str, ...] = option(
        (), "Name by which browsers may reach the server, as behind a proxy. Repeatable."
    )
    model: AskedModel = option(
        "auto",
        "The model that answers. auto: the fine-tuned classifier where fine-tuning gained on val, else the head.",
    )
    threshold: float | None = option(
        None, "Probability above which the positive of two classes is predicted. By default, that of the run, or 0.5."
    )
    abstain: float = option(0.0, "Answers with a lower probability are unsure. 0: none are.")
    neighbours: int = option(
        4, "Nearest training images that the page shows for a photograph. 0: training images stay private."
    )
    batch_size: int = option(0, "Images per forward pass. 0: chosen as for `headstart features`.")
    max_pixels: int = option(64_000_000, "Images with more pixels are refused.")
    max_bytes: int = option(32 << 20, "Requests with more bytes are refused.")
    max_files: int = option(32, "Requests with more files are refused.")
    max_requests: int = option(128, "Requests in work. Further requests are told to come again.")
    timeout: float = option(30.0, "Seconds that a request may take to arrive, and then to be answered.")
    wait: float = option(5.0, "Milliseconds that an image waits for others, with which it shares a forward pass.")

    def __post_init__(self) -> None:
        for name in self.allow_host:
            if not (_NAME.fullmatch(name) or is_address(name)):
                raise OptionError(f"--allow-host {name}: give a name alone, without port or path: photos.example")
        require_options(
            ("--port", self.port, 0 <= self.port <= 65_535, "from 0 to 65535"),
            ("--threshold", self.threshold, self.threshold is None or 0 < self.threshold < 1, "over 0 and under 1"),
            ("--abstain", self.abstain, 0 <= self.abstain <= 1, "from 0 to 1"),
            ("--neighbours", self.neighbours, 0 <= self.neighbours <= 100, "from 0 to 100"),
            ("--batch-size", self.batch_size, self.batch_size >= 0, "at least 0"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
            ("--max-bytes", self.max_bytes, 1 << 10 <= self.max_bytes <= _MOST, "at least 1024"),
            ("--max-files", self.max_files, self.max_files >= 1, "at least 1"),
            ("--max-requests", self.max_requests, self.max_requests >= 1, "at least 1"),
            ("--timeout", self.timeout, self.timeout > 0, "over 0"),
            ("--wait", self.wait, 0 <= self.wait <= 1000, "from 0 to 1000"),
        )


def is_address(name: str) -> bool:
    """Return whether `name` is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
