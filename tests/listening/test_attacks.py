"""What somebody tries who wants more than to listen, over raw sockets where no client would send such a thing."""

import contextlib
import json
import re
import socket
import threading

import psutil
import pytest
from clients import SECONDS, whole_answer
from files import tree

from xtts_gatekeeper.listening.server import MOST_BODY_BYTES, serve

SECRET_FILES = (b"root:", b'"secret"', b"fingerprint", b"audio_file")
UP = [
    "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%2E%2E%2F", "..%5c", "..\\", "%252e%252e%252f", "..%252f", "..%c0%af",
    "%c0%ae%c0%ae/", "....//", "..;/", "%ef%bc%8e%ef%bc%8e%ef%bc%8f", "%u002e%u002e/", "./../", "//../", "..%00/",
]  # fmt: skip
TARGETS = ["etc/passwd", "session.json", "gatekeeper/eval_clips.json", "answers/"]
PREFIXES = ["/", "/static/", "/audio/", "/api/", "/api/session?listener=", "/api/result?listener=", "/?token="]


def talk(client, request, *, cookie=True, most=1 << 20):
    """What comes back for these bytes, until the server ends it or has nothing to say."""
    with socket.create_connection((client.host, client.port), timeout=SECONDS) as connection:
        if cookie:
            head, _, rest = request.partition(b"\r\n")
            request = head + b"\r\nCookie: " + client.cookie.encode() + b"\r\nConnection: close\r\n" + rest
        with contextlib.suppress(OSError):  # the server may have ended it already
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):  # it may hang up on what it has not read
            while len(answer) < most and (piece := connection.recv(65536)):
                answer += piece
        return answer


def status(answer):
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(found[1]) if found else None


def asked(client, target, host=None, version="HTTP/1.1"):
    host = f"Host: {host or f'{client.host}:{client.port}'}\r\n"
    return f"GET {target} {version}\r\n{host}\r\n".encode("latin-1")


def alive(client):
    return client.session("Anna")["listener"] == "Anna"


# Paths


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_path_leads_out_of_what_is_served(client, prefix):
    for up in UP:
        for target in TARGETS:
            for depth in (1, 6):
                answer = talk(client, asked(client, prefix + up * depth + target))
                assert not any(secret in answer for secret in SECRET_FILES), (prefix, up, target)
                if "?" not in prefix:
                    assert status(answer) in (400, 403, 404), (prefix, up, target)


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "//etc/passwd", "file:///etc/passwd", "/static//etc/passwd", "/static/%2fetc%2fpasswd", "*",
     "\\etc", "/static/C:%5cwindows%5cwin.ini", "/static/listen.js%00.html", "/static/listen.js/", "/static/.",
     "/static/listen.js::$DATA"],
)  # fmt: skip
def test_no_other_way_to_name_a_file_works(client, target):
    answer = talk(client, asked(client, target))
    assert status(answer) in (400, 403, 404)
    assert not any(secret in answer for secret in SECRET_FILES)


def test_names_of_listeners_make_no_files_elsewhere(client, served_run):
    before = set(tree(served_run.parent))
    for name in ("../../../evil", "/tmp/evil", "..\\..\\evil", "evil\u2215..", "<script>alert(1)</script>", "a" * 80):
        trial = client.session(name)["trials"][0]["id"]
        assert client.post(name, trial, {"seconds": 1})[0] == 200
    new = set(tree(served_run.parent)) - before
    assert len(new) >= 6
    assert all(re.search(r"/answers(/[0-9a-f]{32}\.json)?$", path) for path in new)


def test_markup_in_names_and_notes_comes_back_as_it_was_in_json_alone(client):
    name = "</script><script>alert(1)</script>"
    trial = client.session(name)["trials"][0]
    note = {"notes": {trial["stimuli"][0]["token"]: name}}
    assert client.post(name, trial["id"], note)[0] == 200
    found, headers, body = client.get("/api/session?listener=%3C/script%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert (found, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["answers"][trial["id"]]["notes"] == note["notes"]


# Hosts


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "{host}", "{host}:1", "localhost", "localhost:{port}.evil.example",
     "{host}:{port}@evil.example", "evil.example@{host}:{port}", "{host}:{port}, evil.example", "[::1]:{port}",
     "0.0.0.0:{port}", "127.1:{port}", "2130706433:{port}", "{host}.:{port}", "{host}:0{port}", "", " "],
)  # fmt: skip
def test_another_host_is_refused_on_every_path(client, host):
    named = host.format(host=client.host, port=client.port)
    for path in (
        "/",
        f"/?token={client.token}",
        "/static/listen.js",
        "/audio/0",
        "/api/session?listener=A",
        "/nothing",
    ):
        request = f"GET {path} HTTP/1.1\r\nHost: {named}\r\n\r\n".encode()
        answer = talk(client, request)
        assert status(answer) == 400
        assert b"another server" in answer
        assert b"Set-Cookie" not in answer


def test_no_host_two_hosts_and_a_whole_url_are_refused(client):
    own = f"Host: {client.host}:{client.port}\r\n"
    for request in (
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\n{own}Host: evil.example\r\n\r\n",
        f"GET / HTTP/1.1\r\n{own}{own}\r\n",
        f"GET http://evil.example/ HTTP/1.1\r\n{own}\r\n",
        f"GET http://evil.example:{client.port}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: {client.host}:{client.port}\r\n\r\n",
    ):
        assert status(talk(client, request.encode())) == 400


def test_its_other_name_is_as_good(client):
    assert status(talk(client, asked(client, "/", f"localhost:{client.port}"))) == 200
    assert status(talk(client, asked(client, "/", f"LOCALHOST:{client.port}"))) == 200


def test_a_page_of_another_site_can_change_nothing(client, served_run):
    """A form can send cookies of the same site, and JSON as text/plain; it can set neither header nor type."""
    document = client.session("Anna")
    trial = document["trials"][0]
    body = json.dumps({"listener": "Anna", "trial": trial["id"], "answer": whole_answer(document, trial)})
    before = tree(served_run)
    for headers in (
        {"Content-Type": "text/plain", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Origin": "http://evil.example", "X-CSRF-Token": client.csrf},
        {"Content-Type": "application/json", "Origin": f"http://localhost:{client.port}0"},
    ):
        assert client.ask("POST", "/api/answer", body, headers)[0] == 403
    assert tree(served_run) == before


# Requests that are none


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 1000,
     b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
     b"GET / HTTP/1.1\nHost: a\n\n",
     b"POST /api/answer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", b"GET /%ff%fe HTTP/1.1\r\n\r\n",
     b"POST /api/answer HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n"],
    ids=range(14),
)  # fmt: skip
def test_garbage_is_refused_and_tells_nothing(client, request_):
    answer = talk(client, request_, cookie=False)
    assert status(answer) in (None, 400, 403, 404, 413, 431, 501)
    assert not re.search(rb"Traceback|\.py|waitress|site-packages|Server:", answer)
    assert alive(client)


# Size


def megabytes(client):
    process = next(
        one for one in psutil.net_connections("tcp4") if one.laddr[1:] == (client.port,) and one.status == "LISTEN"
    )
    return psutil.Process(process.pid).memory_info().rss / 1e6


def test_a_gigabyte_that_is_announced_is_refused_before_it_comes(client, served_run):
    before, files = megabytes(client), set(tree(served_run))
    head = f"POST /api/answer HTTP/1.1\r\nHost: {client.host}:{client.port}\r\nContent-Length: {1 << 30}\r\n\r\n"
    with socket.create_connection((client.host, client.port), timeout=SECONDS) as connection:
        connection.sendall(head.encode())
        assert status(connection.recv(4096)) == 413
    assert set(tree(served_run)) == files
    assert megabytes(client) < before + 20


@pytest.mark.parametrize("chunked", [False, True])
def test_a_gigabyte_that_is_sent_all_the_same_is_not_taken(client, served_run, chunked):
    before, files = megabytes(client), set(tree(served_run))
    how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1 << 30}"
    head = f"POST /api/answer HTTP/1.1\r\nHost: {client.host}:{client.port}\r\n{how}\r\n\r\n"
    piece = bytes(1 << 20)
    piece = b"100000\r\n" + piece + b"\r\n" if chunked else piece
    sent = 0
    with socket.create_connection((client.host, client.port), timeout=SECONDS) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):  # it hangs up, which is all one can do to make somebody stop
            for _ in range(1024):
                connection.sendall(piece)
                sent += 1
    assert sent < 64
    assert set(tree(served_run)) == files
    assert megabytes(client) < before + 20
    assert alive(client)


def test_an_answer_has_at_most_so_many_bytes(client):
    body = b" " * (MOST_BODY_BYTES + 1)
    headers = {"Content-Type": "application/json", "X-CSRF-Token": client.csrf}
    with contextlib.suppress(ConnectionError):  # it hung up while we were still sending
        assert client.ask("POST", "/api/answer", body, headers)[0] == 413
    assert alive(client)


# Slow clients


def test_many_who_say_half_a_request_hold_nobody_up(client):
    half = f"GET /api/session?listener=Anna HTTP/1.1\r\nHost: {client.host}".encode()
    half_body = (
        f"POST /api/answer HTTP/1.1\r\nHost: {client.host}:{client.port}\r\nContent-Length: 1000\r\n\r\n{{".encode()
    )
    slow = [socket.create_connection((client.host, client.port), timeout=SECONDS) for _ in range(120)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(half if number % 2 else half_body)
        assert client.answer_all("Somebody in a hurry")["saved"]
    finally:
        for connection in slow:
            connection.close()


def test_many_who_do_not_read_what_they_asked_for_hold_nobody_up(client):
    sound = client.session("Anna")["trials"][0]["stimuli"][0]["token"]
    request = asked(client, f"/audio/{sound}").replace(
        b"\r\n\r\n", b"\r\nCookie: " + client.cookie.encode() + b"\r\n\r\n"
    )
    slow = [socket.create_connection((client.host, client.port), timeout=SECONDS) for _ in range(60)]
    try:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.sendall(request * 20)
        assert client.answer_all("Somebody in a greater hurry")["saved"]
    finally:
        for connection in slow:
            connection.close()


@pytest.fixture
def impatient():
    """A server that waits a second for a request, and its address."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    bound = socket.create_server(("127.0.0.1", 0))
    server = serve(app, bound, channel_timeout=1, cleanup_interval=0, asyncore_loop_timeout=0.1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield bound.getsockname()
    server.task_dispatcher.shutdown(timeout=1)


def test_who_sends_a_letter_now_and_then_is_not_waited_for(impatient):
    with socket.create_connection(impatient, timeout=0.2) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        closed, letters = False, 0
        while not closed and letters < 100:
            try:
                closed = connection.recv(100) == b""
            except TimeoutError:
                connection.sendall(b"a")
                letters += 1
            except ConnectionError:
                closed = True
    assert closed
    assert letters >= 2


def test_a_connection_with_whole_requests_is_kept(impatient):
    with socket.create_connection(impatient, timeout=SECONDS) as connection:
        for _ in range(3):
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                piece = connection.recv(1000)
                assert piece, "it was closed"
                answer += piece
