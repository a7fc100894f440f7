"""Refusals: the server's answers to requests that it can't serve. A refusal has a status and one sentence."""

from collections.abc import Mapping

from headstart.features.images.faults import Fault, Reason

AGAIN = {"Retry-After": "1"}
_TOO_LARGE, _NO_IMAGE, _DAMAGED = 413, 415, 422
_STATUS: Mapping[Reason, int] = {
    "too-large": _TOO_LARGE,
    "empty": _NO_IMAGE,
    "not-an-image": _NO_IMAGE,
    "unsupported": _NO_IMAGE,
}


class RefusalError(Exception):
    """The refusal of a request. `sentence` says why the request is refused, and what to do."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


def status_of(faults: list[Fault]) -> int:
    """Return the HTTP status for a request without a usable file. `faults` has the fault of each file.

    The status is 413 if all files are too large, 415 if no file is an image of a known format, and 422 otherwise.
    """
    found = {_STATUS.get(fault.reason, _DAMAGED) for fault in faults}
    return found.pop() if len(found) == 1 else _DAMAGED
