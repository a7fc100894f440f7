"""Read the files of a request into memory, within limits. Nothing is written to the disk."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from headstart.pipeline.serve.refusals import RefusalError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would tell the console of damaged forms
_CUT_OFF = "the request ended within its files; send it again"
_MOST_FIELDS = 64  # most parts of a form that are not files
_HEAD_BYTES = 8 << 10  # most bytes of the headers of a part


@dataclass(frozen=True)
class Upload:
    """A file of a request."""

    name: str
    data: bytes


def require_form(request: Request, most: int) -> None:
    """Raise a RefusalError if a request's headers announce a body that is not a form, or a body that is too large.

    The argument `most` is the maximum number of bytes of a body.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise RefusalError(415, "send images as files of a form: multipart/form-data, with the field `files`")
    if not options.get(b"boundary"):
        raise RefusalError(400, "the Content-Type of the form has no boundary")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)


async def read_uploads(
    request: Request, max_bytes: int, max_files: int, seconds: float, arrived: Callable[[int], None]
) -> list[Upload]:
    """Read the files of a request, in order. `arrived` is called with the size of each chunk of bytes that arrives.

    Raises a RefusalError in these cases:

    - The function `arrived` raises a RefusalError.
    - The request has more than `max_bytes` bytes, more than `max_files` files, or too many fields that are not files.
    - The request has no file.
    - A part of the form has headers that are too large.
    - The request takes longer than `seconds` seconds.
    - The request is damaged, or ends too early.
    """
    form = _Form(max_files)
    read = 0
    try:
        parser = _parser(request, form)
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                read += len(chunk)
                if read > max_bytes:
                    raise _too_large(max_bytes)
                arrived(len(chunk))
                parser.write(chunk)
    except TimeoutError as error:
        sentence = f"the request did not arrive within {seconds:g} seconds (--timeout)"
        raise RefusalError(408, sentence, {"Connection": "close"}) from error
    except FormParserError as error:
        raise RefusalError(400, "the form is damaged: it is no multipart/form-data") from error
    except ClientDisconnect as error:
        raise RefusalError(400, _CUT_OFF) from error
    if not form.ended:
        raise RefusalError(400, _CUT_OFF)
    if not form.files:
        raise RefusalError(422, "the form has no file; name its field `files`")
    return [Upload(name, bytes(data)) for name, data in form.files]


def _parser(request: Request, form: "_Form") -> MultipartParser:
    return MultipartParser(
        parse_options_header(request.headers["content-type"])[1][b"boundary"],
        {
            "on_part_begin": form.begin,
            "on_header_field": form.header_name,
            "on_header_value": form.header_value,
            "on_header_end": form.header_end,
            "on_headers_finished": form.headers_end,
            "on_part_data": form.part_data,
            "on_end": form.end,
        },
    )


def _too_large(most: int) -> RefusalError:
    return RefusalError(413, f"a request has at most {most} bytes (--max-bytes); send fewer or smaller files")


@dataclass
class _Form:
    """Collects the files of a form while the form is parsed. The parser of the form calls methods of this class."""

    max_files: int
    files: list[tuple[str, bytearray]] = field(default_factory=list)
    ended: bool = False
    _fields: int = 0
    _into: bytearray | None = None  # the content of the file that is read now; None if the part is not a file
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _head: int = 0  # bytes of the headers of the part so far

    def begin(self) -> None:
        self._disposition, self._into, self._head = b"", None, 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > _HEAD_BYTES:
            raise RefusalError(400, f"the headers of a part of the form have at most {_HEAD_BYTES} bytes")

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise RefusalError(413, f"a form has at most {_MOST_FIELDS} fields beside its files")
            return
        if len(self.files) == self.max_files:
            raise RefusalError(413, f"a request has at most {self.max_files} files (--max-files); send several")
        self._into = bytearray()
        self.files.append((options[b"filename"].decode("utf-8", "replace"), self._into))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._into is not None:
            self._into += data[start:end]

    def end(self) -> None:
        self.ended = True
