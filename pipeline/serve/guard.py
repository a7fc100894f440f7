"""Protection of the service: checks of the origin of a request, and headers that isolate the page from other sites."""

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from headstart.pipeline.serve.config import is_address
from headstart.pipeline.serve.refusals import RefusalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def policy(script: str = "'none'", style: str = "'none'") -> str:
    """Return the content security policy of a page that may use the scripts `script` and the styles `style`.

    Both arguments are written as in the policy: a hash, or `'none'`. A browser that gets this policy loads nothing from
    other servers, connects to no other server, and does not show the page within another page.
    """
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Adds headers to every response, and refuses requests that other sites could misuse.

    A request is refused in two cases:

    - Its header `Host` has neither an IP address nor one of the names `hosts`. Without this rule, the owner of a domain
      could make the domain's name lead to this machine, and the owner's page could read the answers (DNS rebinding).
    - The request comes from a page of another site, and its method is not GET, HEAD or OPTIONS.

    Args:
        app: the application that answers all requests that are not refused.
        hosts: the names by which the server may be reached.
        pages: host names in the URLs of the server's own pages, in addition to the host in `Host`. A server behind a
            proxy needs `pages`, because a proxy may put another name into `Host`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], pages: Collection[str] = ()) -> None:
        self._app = app
        self._hosts, self._pages = ({name.lower().removesuffix(".") for name in names} for names in (hosts, pages))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on to the application. Add headers to the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {"Content-Security-Policy": policy(), **_HEADERS}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._require_own(scope["method"], Headers(scope=scope))
        except RefusalError as refusal:
            await refused(refusal)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _require_own(self, method: str, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        name = name_in(host)
        if not (is_address(name) or name in self._hosts):
            raise RefusalError(421, f"this server is not known as {name[:100]!r}; --allow-host names it")
        if method in _SAFE_METHODS:
            return
        origin = headers.get("origin")
        foreign = origin is not None and not self._is_own(origin, host)
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise RefusalError(403, "the request comes from a page of another site; open the server's own page")

    def _is_own(self, origin: str, host: str) -> bool:
        """Return whether a request's headers `Origin` and `Host` show that it comes from a page of this server."""
        try:
            parts = urlsplit(origin)
            return parts.netloc.lower() == host.lower() or (parts.hostname or "").removesuffix(".") in self._pages
        except ValueError:
            return False


class Json(JSONResponse):
    """A JSON response in ASCII, so that file names which are not UTF-8 can be sent."""

    def render(self, content: Any) -> bytes:
        """Return `content` as JSON, for the body of the response."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def refused(refusal: RefusalError) -> JSONResponse:
    """Return the response to a request that is refused: a JSON object with `error`."""
    return Json({"error": refusal.sentence}, refusal.status, refusal.headers)


def name_in(host: str) -> str:
    """Return the name or address in a header `Host`, in lower case and without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""
