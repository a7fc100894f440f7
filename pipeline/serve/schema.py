"""The form of requests and answers, for OpenAPI."""

from typing import Any

from pydantic import BaseModel


class ErrorOf(BaseModel):
    """The error of a request that is refused."""

    error: str


class Label(BaseModel):
    """A class, and its probability."""

    label: str
    probability: float


class Near(BaseModel):
    """A training image that is near to the image of a request.

    `image` is the path of the training image's thumbnail. `distance` is from 0 to 2.
    """

    label: str
    distance: float
    image: str


class Answer(BaseModel):
    """The answer for a file. If the file can't be used, the answer has only `file`, `rejected` and `detail`."""

    file: str
    label: str | None = None
    probability: float | None = None
    top: list[Label] | None = None
    probabilities: dict[str, float] | None = None
    unsure: bool | None = None
    unlike: bool | None = None
    distance: float | None = None
    nearest: list[Near] | None = None
    rejected: str | None = None
    detail: str | None = None


class Answers(BaseModel):
    """The answers for the files of a request, in order. `error` is there if no file could be used."""

    answers: list[Answer]
    model: str
    error: str | None = None


class Labels(BaseModel):
    """The class names, and the settings that a client must know."""

    labels: list[str]
    model: str
    threshold: dict[str, Any] | None
    abstain: float
    unlike: bool
    nearest: int
    limits: dict[str, float]


class Health(BaseModel):
    """The state of the server."""

    status: str
    model: str
    requests: int
    answered: int


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}
STATUSES = {
    400: "The form is damaged, or the request ended too early.",
    403: "The request comes from a page of another site.",
    408: "The request took too long to arrive.",
    413: "Too many bytes, files or pixels.",
    415: "The request is no form, or none of its files is an image.",
    421: "The server is not known by this name.",
    422: "The form has no file, or none of its images can be decoded.",
    429: "Too many requests are in work.",
    500: "The server failed.",
    503: "The server is stopping.",
    504: "The answer took too long.",
}
