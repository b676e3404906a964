"""The web server of the listening page: who may ask, what is answered, and that no answer tells more than it must.

Every request must name this server in its Host header, which a page of another origin whose name was made to point here
(DNS rebinding) cannot. Every one but the link itself must bring the cookie that the link has set. What changes anything
must besides come from our own page: by its CSRF token, and by what the browser says of where it is from.
"""

from __future__ import annotations

import hmac
import io
import logging
import socket
from collections.abc import Callable, Collection
from typing import Any

from flask import Flask, Response, make_response, request
from pydantic import ValidationError
from waitress import create_server
from waitress.channel import HTTPChannel
from werkzeug.exceptions import HTTPException

from xtts_gatekeeper.listening.answers import Posted, in_words
from xtts_gatekeeper.listening.page import assets, online_page
from xtts_gatekeeper.listening.service import Refused, Service
from xtts_gatekeeper.listening.trials import link_token

#: An answer has a few kilobytes; a thousand letters of notes for each of six samples, escaped, fit four times.
MOST_BODY_BYTES = 64 << 10

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
#: A link in somebody's mail is followed from that other site, and what it leads to comes without our Strict cookie.
#: This page asks once more, from here.
_ONCE_MORE = '<!doctype html><meta http-equiv="refresh" content="0; url=/"><title>Listening test</title>'


def make_app(service: Service, token: str, hosts: Collection[str], title: str = "Listening test") -> Flask:
    """The WSGI application.

    Args:
        service: the session.
        token: who has it in a link is let in.
        hosts: `host:port` as they may stand in a Host header.
        title: of the page.
    """
    app = Flask("xtts_gatekeeper.listening", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    app.json.ensure_ascii = False
    app.json.sort_keys = False
    app.url_map.merge_slashes = False  # else it would answer with another place to go to
    door = Door(token, link_token(service.session, "csrf"), hosts, service.session.id)
    routes = Routes(service, door, title)
    app.before_request(door.check)
    for path, view in (
        ("/", routes.page),
        ("/static/<name>", routes.static),
        ("/audio/<token>", routes.audio),
        ("/api/session", routes.session),
        ("/api/result", routes.result),
    ):
        app.add_url_rule(path, view_func=view, methods=["GET"], provide_automatic_options=False)
    app.add_url_rule("/api/answer", view_func=routes.answer, methods=["POST"], provide_automatic_options=False)
    app.after_request(_guarded)
    app.register_error_handler(Refused, lambda refused: _problem(refused.status, refused.sentence))
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(OSError, _not_written(service))
    app.register_error_handler(Exception, _unexpected(app))
    return app


class Door:
    """Who is let in."""

    def __init__(self, token: str, csrf: str, hosts: Collection[str], session: str) -> None:
        self.csrf = csrf
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        # A browser sends a host's cookies to all its ports: those of another session's server must not replace ours.
        self._cookie = f"listening-{session}"

    def check(self) -> Response | None:
        """Let a request pass, or answer it."""
        if request.headers.get("Host", "").lower() not in self._hosts or _names_a_server():
            raise Refused(400, "The request names another server.")
        if request.path == "/" and "token" in request.args:
            return self._by_link()
        if not _same(request.cookies.get(self._cookie, ""), self._token):
            if request.path == "/" and request.headers.get("Sec-Fetch-Site") == "cross-site":
                return make_response(_ONCE_MORE)
            raise Refused(403, "Open the link that xtts-gatekeeper listen has printed.")
        if request.method not in ("GET", "HEAD"):
            self._check_change()
        return None

    def _by_link(self) -> Response:
        if not _same(request.args["token"], self._token):
            raise Refused(
                403, "The link is not that of this session; open the one that xtts-gatekeeper listen has printed."
            )
        response = make_response("", 303)
        response.headers["Location"] = "/"
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
        return response

    def _check_change(self) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self._hosts}:
            raise Refused(403, "The request comes from another page.")
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(403, "The request comes from another page.")
        if not _same(request.headers.get("X-CSRF-Token", ""), self.csrf):
            raise Refused(403, "The request does not come from this server's page; load it again.")
        if request.mimetype != "application/json":
            raise Refused(415, "An answer is application/json.")


class Routes:
    """What each path answers."""

    def __init__(self, service: Service, door: Door, title: str) -> None:
        self._service, self._door, self._title = service, door, title

    def page(self) -> Response:
        """`GET /`."""
        return make_response(online_page(self._title, self._door.csrf))

    def static(self, name: str) -> Response:
        """`GET /static/<name>`: of a fixed list, never of a path."""
        found = assets().get(name)
        if found is None:
            raise Refused(404, "There is no such file.")
        content, kind = found
        return Response(content, mimetype=kind)

    def audio(self, token: str) -> Response:
        """`GET /audio/<token>`, whole or a range of it, which browsers ask for.

        Without ETag and date, by which two tokens of one file could be told to be that.
        """
        sound = self._service.sound(token)
        response = Response(io.BytesIO(sound), mimetype="audio/flac", direct_passthrough=True)
        response.content_length = len(sound)
        response.make_conditional(request.environ, accept_ranges=True, complete_length=len(sound))
        return response

    def session(self) -> Response:
        """`GET /api/session?listener=NAME`."""
        return make_response(self._service.trials_document(request.args.get("listener", "")))

    def answer(self) -> Response:
        """`POST /api/answer`."""
        try:
            posted = Posted.model_validate_json(request.get_data(cache=False))
        except ValidationError as error:
            raise Refused(400, in_words(error)) from None
        return make_response(self._service.take(posted))

    def result(self) -> Response:
        """`GET /api/result?listener=NAME`."""
        return make_response(self._service.result(request.args.get("listener", "")))


def _same(given: str, wanted: str) -> bool:
    """Compare secrets in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _names_a_server() -> bool:
    """Whether the request line holds a whole URL, as for a proxy, which would outrank the Host header."""
    return not str(request.environ.get("REQUEST_URI", "/")).startswith("/")


def _guarded(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response


def _problem(status: int, sentence: str) -> Response:
    return make_response({"error": sentence}, status)


def _http_problem(error: HTTPException) -> Response:
    """What werkzeug refuses, in one sentence; its headers (Allow, Content-Range) are kept."""
    response = _problem(error.code or 500, f"{error.name}.")
    kept = ("Allow", "Content-Range")
    response.headers.extend((name, value) for name, value in error.get_headers() if name in kept)
    return response


def _not_written(service: Service) -> Callable[[OSError], Response]:
    def answer(error: OSError) -> Response:
        service.complain(f"an answer could not be written: {error.strerror or error}.")
        return _problem(507, "The answer could not be written to the disk; it is tried again.")

    return answer


def _unexpected(app: Flask) -> Callable[[Exception], Response]:
    def answer(error: Exception) -> Response:
        app.logger.error("listening: %s %s", request.method, request.path, exc_info=error)
        return _problem(500, "Something went wrong in the server; its console tells what.")

    return answer


class _Impatient(HTTPChannel):
    """A connection on which a whole request must come within the timeout, and not only its next byte."""

    last_activity: float

    def handle_read(self) -> None:
        """Read what has come; what belongs to a request that has begun is no new sign of life."""
        began = self.last_activity if self.request is not None else None
        super().handle_read()
        if began is not None and self.request is not None:
            self.last_activity = began


def serve(app: Any, bound: socket.socket, **options: Any) -> Any:
    """A waitress server of the application at a socket that is bound.

    One thread reads and writes all connections, so that slow ones hold nobody up; a request is given to one of four
    others once all of it has come.

    Args:
        app: the application.
        bound: the socket.
        options: of waitress, in place of ours.
    """
    ours = {
        "threads": 4,
        "ident": None,
        "connection_limit": 400,  # 50 open pages have up to six each
        "channel_timeout": 30,
        "cleanup_interval": 5,
        "max_request_header_size": 16 << 10,
        "max_request_body_size": MOST_BODY_BYTES,
        "inbuf_overflow": MOST_BODY_BYTES,
        "asyncore_use_poll": True,
    }
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that somebody waits for a thread is nothing to tell
    server = create_server(app, sockets=[bound], **{**ours, **options})
    server.channel_class = _Impatient
    return server
