"""The HTTP interface: its paths, its errors, and the form of its answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from headstart.features.images.faults import Fault
from headstart.pipeline.serve.guard import Guard, Json, refused
from headstart.pipeline.serve.page import Page
from headstart.pipeline.serve.refusals import RefusalError, status_of
from headstart.pipeline.serve.schema import FORM, STATUSES, Answers, ErrorOf, Health, Labels
from headstart.pipeline.serve.service import Asked, Service
from headstart.pipeline.serve.uploads import Upload, read_uploads, require_form
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

# FastAPI would send traces and metrics to wherever variables of the environment say.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_THUMBNAILS = 2  # thumbnails that may be made at the same time; each decodes an image


def make_app(service: Service, title: str, hosts: Sequence[str]) -> FastAPI:
    """Return the FastAPI application, which lets `service` answer requests.

    `title` names the model, and `hosts` are the names by which the server may be reached; see `Guard`. FastAPI's pages
    of documentation are left out, because they load scripts from elsewhere. `/openapi.json` is served.
    """
    app = FastAPI(
        title="headstart",
        description=f"Labels for photographs: {title}",
        version=version("headstart"),
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.add_middleware(Guard, hosts=hosts, pages=service.config.allow_host)
    _add_errors(app)
    _add_page(app, service, title)
    _add_answers(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    """Make `app` answer every error with a JSON object of the form `{"error": "..."}`."""

    @app.exception_handler(RefusalError)
    async def _(_: Request, error: RefusalError) -> JSONResponse:
        return refused(error)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        known = "there are /, /predict, /labels, /health and /openapi.json"
        sentence = f"{request.method} {request.url.path[:100]}: {error.detail}; {known}"
        return refused(RefusalError(error.status_code, sentence, error.headers))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refused(RefusalError(422, f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> JSONResponse:
        return refused(RefusalError(500, "the server failed; its console says why"))


def _add_page(app: FastAPI, service: Service, title: str) -> None:
    page = Page(title, service.served.layout.class_names)
    drawing = asyncio.Semaphore(_THUMBNAILS)

    @app.head("/", include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})

    @app.head("/favicon.ico", status_code=204, include_in_schema=False)
    @app.get("/favicon.ico", status_code=204, include_in_schema=False)
    async def favicon() -> None:
        """Tell browsers that there is no icon."""

    @app.head("/labels", include_in_schema=False)
    @app.get("/labels", summary="The class names and the limits", response_model=Labels)
    async def labels() -> JSONResponse:
        layout, config = service.served.layout, service.config
        threshold = layout.threshold
        return Json(
            {
                "labels": list(layout.class_names),
                "model": layout.model,
                "threshold": asdict(threshold) if threshold else None,
                "abstain": layout.trust.abstain,
                "unlike": layout.trust.farthest is not None,
                "nearest": config.neighbours if service.nearest else 0,
                "limits": {"bytes": config.max_bytes, "files": config.max_files, "pixels": service.served.max_pixels},
            }
        )

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the server answers", response_model=Health)
    async def health() -> JSONResponse:
        state = "stopping" if service.stopping else "ready"
        told = {"status": state, "model": service.served.layout.model}
        counts = {"requests": service.requests, "answered": service.answered}
        return Json({**told, **counts}, 503 if service.stopping else 200)

    @app.head("/training/{digest}.jpg", include_in_schema=False)
    @app.get("/training/{digest}.jpg", include_in_schema=False)
    async def training(digest: str) -> Response:
        data = None
        if service.nearest:
            async with drawing:
                data = await run_in_threadpool(service.nearest.thumbnail, digest)
        if data is None:
            raise RefusalError(404, "there is no such training image")
        return Response(data, media_type="image/jpeg")


def _add_answers(app: FastAPI, service: Service) -> None:
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorOf, "description": text} for status, text in STATUSES.items()
    }

    @app.post("/predict", summary="Label images", response_model=Answers, responses=told, openapi_extra=FORM)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="The number of likeliest classes to give.")] = 5,
        probabilities: Annotated[
            bool, Query(description="Give the probabilities of all classes, even if there are more than 30.")
        ] = False,
        nearest: Annotated[int, Query(ge=0, description="The number of nearest training images to give.")] = 0,
    ) -> JSONResponse:
        """Return an answer for each file, in order. The files are in memory only until they are answered."""
        config = service.config
        require_form(request, config.max_bytes)
        with service.arriving() as arrived:
            uploads = await read_uploads(request, config.max_bytes, config.max_files, config.timeout, arrived)
            with service.admitted():
                found = await service.answers(uploads, Asked(top, probabilities, min(nearest, config.neighbours)))
        return _shown(uploads, found, service.served.layout.model)


def _shown(uploads: Sequence[Upload], found: Sequence[dict[str, Any] | Fault], model: str) -> JSONResponse:
    answers = [
        {"file": upload.name, "rejected": one.reason, "detail": one.detail} if isinstance(one, Fault) else one
        for upload, one in zip(uploads, found, strict=True)
    ]
    faults = [one for one in found if isinstance(one, Fault)]
    if len(faults) < len(found):
        return Json({"answers": answers, "model": model})
    first = f"{uploads[0].name or 'the file'}: {faults[0].detail} ({faults[0].reason})"
    sentence = first if len(faults) == 1 else f"none of {len(faults)} files can be used; {first}"
    return Json({"error": sentence, "answers": answers, "model": model}, status_of(faults))
