"""The guard before every route: other sites' pages are kept out, and every answer says what browsers may do with it."""

from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.errors import FanfoldError
from ingest.settings import LOOPBACK, Settings
from serve.docs import SWAGGER_UI
from serve.problems import problem_answer
from serve.refusals import CrossSite, Misdirected

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = (
    f"default-src 'none'; script-src 'self' {SWAGGER_UI}; style-src {SWAGGER_UI} 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses what a browser was tricked into, and puts security headers onto every answer.

    Without API keys, being on this machine is all that a caller has to prove, and its browser can prove it for any
    page: so a foreign host name (DNS rebinding) and a foreign `Origin` (cross-site request forgery) are refused. With
    keys the key is the proof, which no foreign page has.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._open = not settings.api_keys
        self._hosts = {settings.http_host.lower(), *LOOPBACK, *(host.lower() for host in settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope)) if self._open else None
        app = self._app if refusal is None else problem_answer(refusal)
        await app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> FanfoldError | None:
        host = headers.get("host", "")
        if _name(f"//{host}") not in self._hosts:
            return Misdirected("This service is not called by that host name. FANFOLD_ALLOWED_HOSTS can allow it.")
        origin = headers.get("origin")
        if method in SAFE_METHODS or origin is None or _split(origin).netloc == host or _name(origin) in self._others:
            return None
        return CrossSite("A page of another site may not do this. FANFOLD_ALLOWED_HOSTS can allow its host.")

    @property
    def _others(self) -> Iterable[str]:
        """Hosts whose pages are trusted although they have another address, such as a proxy's."""
        return self._hosts - LOOPBACK


def _name(url: str) -> str:
    """The host of an address, without its port."""
    return (_split(url).hostname or "").lower()


def _split(url: str) -> SplitResult:
    """The parts of an address; none of what is no address."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _add_headers(headers: MutableHeaders, path: str) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", DOCS_POLICY if path == "/docs" else PAGE_POLICY)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "no-store")
    elif path.startswith("/page/"):  # a browser asks whether its copy is still the one: versions must not mix
        headers.setdefault("Cache-Control", "no-cache")
