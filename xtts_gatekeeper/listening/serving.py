"""The server as a process: its address, its link, and its end."""

from __future__ import annotations

import contextlib
import html
import ipaddress
import os
import queue
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlencode

from filelock import Timeout

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.answers import Answers
from xtts_gatekeeper.listening.server import make_app, serve
from xtts_gatekeeper.listening.service import Service
from xtts_gatekeeper.listening.session import Place, Session, locked
from xtts_gatekeeper.listening.trials import link_token

_LOCK = "listen.lock"
#: How far it gives way to a training beside it, by the system's own number for it.
_NICE = 10


@dataclass(frozen=True)
class Address:
    """A socket that is bound.

    `hosts`: as a browser may name it, the one for the link first. `open`: other computers can reach it.
    """

    bound: socket.socket
    hosts: tuple[str, ...]
    open: bool


def run_server(
    place: Place,
    session: Session,
    *,
    host: str,
    port: int,
    browser: bool,
    title: str,
    finished: Callable[[], None],
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> None:
    """Serve a session until Ctrl-C or SIGTERM.

    Args:
        place: where it is kept.
        session: what is heard.
        host: address to listen at.
        port: TCP port; 0: one that is free.
        browser: open the page in the user's browser.
        title: of the page.
        finished: called when somebody has answered everything.
        say: told the link.
        complain: told what else a person should know.

    Raises:
        UserError: the address cannot be used, or another process serves the session.
    """
    folder = place.listening / session.id
    with _alone(folder), contextlib.suppress(KeyboardInterrupt), _signals():
        address = bind(host, port)
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            os.nice(_NICE)
        token = link_token(session, "link")
        service = Service(place, session, Answers(folder, session.id), finished, complain)
        app = make_app(service, token, address.hosts, title=title)
        server = serve(app, address.bound)
        if address.open:
            complain(
                f"Warning: the page can be reached from other computers at {host}, without encryption: whoever has the "
                "link, or reads along on the network, can listen and answer."
            )
        link = f"http://{address.hosts[0]}/?{urlencode({'token': token})}"
        say(f"Listen at {link}")
        try:
            with _opened(link, folder) if browser else contextlib.nullcontext():
                server.run()  # which takes Ctrl-C for its end, and waits for the answers in hand
        finally:
            server.close()


def bind(host: str, port: int) -> Address:
    """Bind a TCP socket.

    Raises:
        UserError: it cannot be bound.
    """
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port} cannot be listened at ({said}); give another --host or --port.") from None
    own = ipaddress.ip_address(str(where[0]).partition("%")[0])
    number = bound.getsockname()[1]
    ending = "" if number == 80 else f":{number}"  # browsers leave that one out
    return Address(bound, tuple(name + ending for name in hosts_of(host, own)), not own.is_loopback)


def hosts_of(host: str, own: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    """The names under which a server at `host` may be asked, as a URL has them.

    Args:
        host: as it was given.
        own: the address that it means.
    """
    if own.is_loopback:
        return [_in_url(str(own)), "localhost"]
    if not own.is_unspecified:
        return list(dict.fromkeys([_in_url(host), _in_url(str(own))]))
    import psutil

    found = [
        _in_url(one.address.partition("%")[0])
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET or (one.family == socket.AF_INET6 and own.version == 6)
    ]
    found.sort(key=lambda name: name.startswith(("127.", "[")))  # the link is for others
    return [*found, socket.gethostname(), "localhost"]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def in_background(work: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """A function that has `work`, which raises nothing, done by a thread of its own: no listener waits for it.

    What is asked for while the thread is at it is done once more, however often it was asked for; all of it is done
    when the block ends.
    """
    asked: queue.Queue[bool] = queue.Queue(maxsize=1)

    def ask() -> None:
        with contextlib.suppress(queue.Full):
            asked.put_nowait(True)

    def do() -> None:
        while asked.get():
            work()

    thread = threading.Thread(target=do, name="scores")
    thread.start()
    try:
        yield ask
    finally:
        asked.put(False)
        thread.join()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a session for this process: two would each keep answers that the other does not know of."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder / _LOCK, timeout=0))
        except Timeout:
            raise UserError(
                f"The session {folder.name} is being served already; open its link, or end that one."
            ) from None
        yield


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does, also where a shell has started this in the background, deaf to Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _opened(link: str, folder: Path) -> Iterator[threading.Thread]:
    """Open the link in a browser, by way of a file: every user of this computer can see a process's arguments."""
    page = folder / "open.html"
    text = f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(link)}"><title>Listening</title>'
    page.unlink(missing_ok=True)
    page.touch(0o600, exist_ok=False)
    page.write_text(text, encoding="utf-8")
    # Some browsers only return when they are closed.
    opening = threading.Thread(target=_open, args=(page.resolve().as_uri(),), daemon=True)
    opening.start()
    try:
        yield opening
    finally:
        page.unlink(missing_ok=True)


def _open(url: str) -> None:
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(url)
        return
    print("No browser could be opened; open the link above.", file=sys.stderr, flush=True)
