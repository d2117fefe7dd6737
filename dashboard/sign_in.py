"""The door: a page that asks for an API key, and a gate before everything else where one is required.

In: HTTP. Out: a cookie with the token of a session (see `sessions`), never with the key; the way back to what was
asked for. Knows nothing of what lies behind.
"""

from __future__ import annotations

import asyncio
from html import escape
from urllib.parse import parse_qs, quote

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard import access
from dashboard.database import LedgerUnavailable
from dashboard.sessions import LASTS_S, SESSIONS, Refused, TriedTooOften

PATH, OUT_PATH = "/sign-in", "/sign-out"
_OPEN = {PATH, OUT_PATH, "/_stcore/health"}
_MAX_BODY_BYTES = 8192
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}


class Gate:
    """ASGI middleware: whoever has no session gets to the sign-in page, if one is required."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _may_pass(HTTPConnection(scope)):
            await _refuse(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _may_pass(connection: HTTPConnection) -> bool:
    is_open = connection.scope["path"] in _OPEN or not access.is_required()
    return is_open or SESSIONS.find(_token(connection)) is not None


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "sign in first"})
        return
    request = Request(scope)
    answer = Response("sign in first", 401, media_type="text/plain")
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        answer = RedirectResponse(f"{PATH}?next={quote(wanted, safe='')}", 303, headers=_HEADERS)
    await answer(scope, receive, send)


async def _ask(request: Request) -> Response:
    return _page(_own_path(request.query_params.get("next")))


async def _enter(request: Request) -> Response:
    if _is_from_elsewhere(request):
        return _page("/", "Another site sent you here with a key. Sign in with your own.", 403)
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _MAX_BODY_BYTES:
            return _page("/", "That is too long for a key.", 413)
    given = {name: values[0] for name, values in parse_qs(raw.decode("utf-8", "replace")).items()}
    wanted, address = _own_path(given.get("next")), request.client.host if request.client else ""
    try:
        token = await asyncio.to_thread(SESSIONS.open, given.get("key", "").strip(), address)
    except TriedTooOften as error:
        return _page(wanted, str(error), 429, {"Retry-After": f"{error.wait_s:.0f}"})
    except Refused as error:
        return _page(wanted, str(error), 401)
    except LedgerUnavailable as error:
        return _page(wanted, f"{error.title}.", 503)  # its hint may name hosts and users to anybody
    SESSIONS.end(_token(request))
    answer = RedirectResponse(wanted, 303, headers=_HEADERS)
    answer.set_cookie(
        access.cookie_name(),
        token,
        max_age=int(LASTS_S),
        httponly=True,
        samesite="lax",  # a link in a message leads to its page, another site's script to nothing
        secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto", "")),
    )
    return answer


async def _leave(request: Request) -> Response:
    if _is_from_elsewhere(request):
        return RedirectResponse("/", 303, headers=_HEADERS)
    SESSIONS.end(_token(request))
    answer = RedirectResponse(PATH if access.is_required() else "/", 303, headers=_HEADERS)
    answer.delete_cookie(access.cookie_name())
    return answer


ROUTES = [
    Route(PATH, _ask, methods=["GET"]),
    Route(PATH, _enter, methods=["POST"]),
    Route(OUT_PATH, _leave, methods=["GET"]),
]


def _token(connection: HTTPConnection) -> str | None:
    return connection.cookies.get(access.cookie_name())


def _is_from_elsewhere(request: Request) -> bool:
    """Whether another site's page made the browser ask this, where the browser tells."""
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def _own_path(wanted: str | None) -> str:
    """A path of this dashboard, whatever was asked for."""
    is_own = wanted and wanted.isprintable() and wanted[0] == "/" and wanted[1:2] not in ("/", "\\")
    return wanted if wanted and is_own else "/"


def _page(
    wanted: str, trouble: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    alert = f'<p role="alert">✕ {escape(trouble)}</p>' if trouble else ""
    text = _HTML.format(path=PATH, wanted=escape(wanted), alert=alert)
    return HTMLResponse(text, status, _HEADERS | (headers or {}))


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sparkgate · sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 Inter, system-ui, "Segoe UI", Roboto, sans-serif; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem; box-sizing: border-box;
       background: light-dark(#f7f8fa, #0f1318); color: light-dark(#1b2430, #e4e9ef); }}
form {{ width: 100%; max-width: 23rem; box-sizing: border-box; padding: 1.6rem 1.7rem 1.4rem; border-radius: 10px;
       border: 1px solid light-dark(#dfe4ea, #2a323c); background: light-dark(#ffffff, #161b22); }}
h1 {{ font-size: 1.35rem; font-weight: 650; letter-spacing: -.02em; margin: 0 0 1rem; }}
label {{ display: block; font-size: .87rem; }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem .7rem; border-radius: 8px; }}
input {{ margin: .3rem 0 .8rem; color: inherit; background: light-dark(#f7f8fa, #0f1318);
        border: 1px solid light-dark(#c9d1da, #3a4450); }}
button {{ border: 0; cursor: pointer; font-weight: 600; color: light-dark(#ffffff, #0f1318);
         background: light-dark(#0b6bcb, #58a6ff); }}
p {{ font-size: .85rem; margin: 1rem 0 0; color: light-dark(#5b6672, #9aa5b1); }}
[role=alert] {{ margin: 0 0 .8rem; color: light-dark(#cf3030, #f0716b); }}
:focus-visible {{ outline: 2px solid light-dark(#0b6bcb, #58a6ff); outline-offset: 2px; }}
</style></head>
<body><form method="post" action="{path}">
<h1>sparkgate</h1>{alert}
<label for="key">API key</label>
<input id="key" name="key" type="password" required autofocus autocomplete="current-password" spellcheck="false">
<input type="hidden" name="next" value="{wanted}">
<button>Sign in</button>
<p>A key of scope <code>admin</code>, or <code>read</code> to look only. <code>sparkgate up</code> prints the first;
<code>sparkgate keys create</code> makes others.</p>
</form></body></html>
"""
