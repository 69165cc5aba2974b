"""Who may ask: the token, the host name, and the headers of every answer."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Lets through who has the token, and asks for this server by its own name.

    The token stands in the address that the user opens; it moves from there into a cookie that no
    script can read, and that no other site makes the browser send. A name that is neither this
    machine's address nor in `hosts` is refused, since a site could point its own name here (DNS
    rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] = ()) -> None:
        self.app, self.token = app, token
        self.hosts = {"localhost", *(host.lower() for host in hosts)}
        self.cookie = f"slimp-{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # not by port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._answer(Request(scope)) or self.app
            await answer(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """What is said in place of the app."""
        if not self._is_own_name(request.headers.get("host", "")):
            return JSONResponse({"error": "This server does not go by that name."}, 403)
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/" and self._is_token(given):
            answer = RedirectResponse("/", 303)  # so that the token leaves the address
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        sent = (request.headers.get("x-token"), request.cookies.get(self.cookie))
        if any(self._is_token(one) for one in sent if one is not None):
            return None
        error = "Open the address that slimp app printed: it holds the token."
        return JSONResponse({"error": error}, 403)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return bool(host) and name.lower() in self.hosts
        return True
