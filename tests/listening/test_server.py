"""What the server answers, and whom."""

import io
import json
import re

import pytest
import soundfile
from clients import Client, whole_answer

from xtts_gatekeeper.listening.answers import FAULTS
from xtts_gatekeeper.listening.service import Service
from xtts_gatekeeper.samples.score import ROWS

ROUTES = [
    "/",
    "/static/listen.js",
    "/static/nothing.js",
    "/audio/0123",
    "/api/session?listener=A",
    "/api/result",
    "/nothing",
]
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def stranger(client):
    """Somebody who knows where the server is, and has neither link nor cookie."""
    return Client(client.link)


@pytest.fixture
def document(client, request):
    """The session of a listener of the test's own."""
    return client.session(request.node.name[:80])


def refusals(answer):
    """The sentence of a refusal that tells nothing of the machine."""
    status, document = answer
    assert 400 <= status < 500
    assert set(document) == {"error"}
    assert not re.search(r"/(root|tmp|work|home|usr)|\.py|Traceback|site-packages", document["error"])
    return status, document["error"]


# The door


def test_the_link_sets_a_cookie_for_this_host_alone_and_leaves_the_token_out_of_the_address(client):
    status, headers, body = stranger(client).get(f"/?token={client.token}")
    assert (status, headers["Location"], body) == (303, "/", b"")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize("token", ["", "0" * 32, "ä", "%00", "x" * 5000])
def test_another_token_opens_nothing(client, token):
    status, headers, body = stranger(client).get(f"/?token={token}" if token.isascii() else "/?token=%C3%A4")
    assert status == 403
    assert "Set-Cookie" not in headers
    assert client.token.encode() not in body


@pytest.mark.parametrize("path", ROUTES)
def test_without_the_cookie_nothing_is_answered(client, path):
    status, _, body = stranger(client).get(path)
    assert status == 403
    assert b"Open the link" in body
    assert stranger(client).get(path, Cookie=client.cookie[:-1] + "x")[0] == 403


def test_a_link_in_a_mail_is_followed_although_its_first_page_comes_without_the_cookie(client):
    """A browser withholds a Strict cookie from where a link of another site leads to, redirects included."""
    status, _, body = stranger(client).get("/", Sec_Fetch_Site="cross-site")
    assert status == 200
    assert b'http-equiv="refresh" content="0; url=/"' in body
    assert client.csrf.encode() not in body
    assert stranger(client).get("/", Sec_Fetch_Site="same-origin")[0] == 403


@pytest.mark.parametrize("path", [*ROUTES, "/?token={token}"])
def test_every_answer_is_guarded(client, path):
    for asking in (client, stranger(client)):
        _, headers, _ = asking.get(path.format(token=client.token))
        assert HEADERS.items() <= dict(headers).items()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "Server" not in headers
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"])
def test_other_methods_are_refused(client, method):
    for path in ROUTES[:6]:
        headers = {"X-CSRF-Token": client.csrf, "Content-Type": "application/json"}
        assert client.ask(method, path, headers=headers)[0] in (404, 405)


# The page and what belongs to it


def test_the_page_names_nothing_of_another_origin_and_shows_markup_as_text(client):
    status, headers, body = client.get("/")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img src=x" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_the_files_of_the_page_and_no_others(client):
    kinds = {"listen.js": "text/javascript", "listen.css": "text/css", "icon.svg": "image/svg+xml"}
    for name, kind in kinds.items():
        status, headers, body = client.get(f"/static/{name}")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert body
    assert client.get("/static/listen.html")[0] == client.get("/static/")[0] == 404


# The session


def test_a_session_asks_the_rubric_and_shows_each_trial_blindly(client, document):
    assert [row["key"] for row in document["rows"]] == list(ROWS)
    assert all(row["name"] and row["question"] and row["low"] and row["high"] for row in document["rows"])
    assert [fault["key"] for fault in document["faults"]] == list(FAULTS)
    assert (document["answers"], document["done"]) == ({}, 0)
    assert len(document["trials"]) == 6 + 1 + 1  # the prompts and a real clip; one of a choice and one alone again
    told = re.sub(r'"[0-9a-f]{16,32}"', "", json.dumps(document))
    for secret in ("100", "200", "step", "real", "gatekeeper", ".wav"):
        assert secret not in told.replace("A clip of the speaker that says something else.", "")


def test_the_same_name_goes_on_where_it_stopped(client, document):
    name = document["listener"]
    trial = document["trials"][0]
    part = {"marks": {trial["stimuli"][0]["token"]: {"prosody": 2}}, "notes": {trial["stimuli"][0]["token"]: "<b>\n"}}
    assert client.post(name, trial["id"], part)[1] == {
        "saved": True, "complete": False, "done": 0, "of": len(document["trials"]),
    }  # fmt: skip
    whole = whole_answer(document, document["trials"][1], seconds=2.5)
    assert client.post(name, document["trials"][1]["id"], whole)[1]["done"] == 1
    again = client.session(name.upper())
    assert again["trials"] == document["trials"]
    assert again["done"] == 1
    assert again["answers"][trial["id"]]["marks"] == part["marks"]
    assert again["answers"][trial["id"]]["notes"] == part["notes"]
    assert again["answers"][document["trials"][1]["id"]]["seconds"] == 2.5


@pytest.mark.parametrize("query", ["", "?listener=", "?listener=%20", "?listener=" + "a" * 81, "?listener=a%00b"])
def test_a_listener_needs_a_name(client, query):
    for path in ("/api/session", "/api/result"):
        status, _, body = client.get(path + query)
        assert "name" in refusals((status, json.loads(body)))[1]


def test_the_result_comes_when_everything_is_answered_and_not_before(client):
    name = "Somebody who hears well"
    assert client.result(name)[0] == 409
    document = client.session(name)
    assert client.answer_all(name, mark=lambda trial, one: 4)["done"] == len(document["trials"])
    status, result = client.result(name)
    assert status == 200
    assert [(one["name"], one["step"], one["score"]) for one in result["systems"]] == [
        ("step 100", 100, 20),
        ("step 200", 200, 20),
    ]
    assert result["systems"][0]["rows"] == dict.fromkeys(ROWS, 4)
    assert sum(one["preferred"] for one in result["systems"]) <= 5
    assert result["real"] == {"score": 20, "rows": dict.fromkeys(ROWS, 4)}
    assert (result["consistency"]["repeats"], result["consistency"]["difference"]) == (3, 0)


# Answers


@pytest.mark.parametrize(
    "change",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": None},
        {"X-CSRF-Token": None},
        {"X-CSRF-Token": "0" * 32},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://{host}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Cookie": "other=1"},
    ],
    ids=str,
)
def test_an_answer_that_does_not_come_from_our_page_is_refused(client, document, change):
    trial = document["trials"][0]
    change = {key: value and value.format(host=f"{client.host}:{client.port}") for key, value in change.items()}
    status, _ = refusals(client.post(document["listener"], trial["id"], whole_answer(document, trial), **change))
    assert status in (403, 415)
    assert client.session(document["listener"])["answers"] == {}


def test_a_browser_that_tells_its_origin_and_an_old_one_that_does_not_are_served(client, document):
    trial = document["trials"][0]
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": None}):
        assert client.post(document["listener"], trial["id"], whole_answer(document, trial), **headers)[0] == 200


@pytest.mark.parametrize("mark", ["0", "6", "1.5", "true", "NaN", "Infinity", "1e999", "9" * 4000, "null", '"5"', "{}"])
def test_marks_that_are_none_are_refused(client, document, mark):
    trial = document["trials"][0]
    body = json.dumps({"listener": "A", "trial": trial["id"], "answer": whole_answer(document, trial)})
    status, _ = refusals(client.post_text(body.replace('"prosody": 3', f'"prosody": {mark}')))
    assert status == 400


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", "3", "\x00", '{"listener": "A"}', '{"listener": "A", "trial": "../x", "answer": {}}',
     '{"listener": ["A"], "trial": "0123456789abcdef", "answer": {}}', "[" * 30000, '{"a":' * 9000],
)  # fmt: skip
def test_what_is_no_answer_is_refused(client, body):
    assert refusals(client.post_text(body))[0] == 400


def test_an_answer_to_what_this_listener_was_not_asked_is_refused(client, document):
    trial = document["trials"][0]
    name = document["listener"]
    assert refusals(client.post(name, "0" * 16, {}))[0] == 404
    assert refusals(client.post("somebody else", trial["id"], {}))[0] == 404
    other = client.session("somebody else")["trials"][0]["stimuli"][0]["token"]
    assert refusals(client.post(name, trial["id"], {"preferred": other}))[0] == 400
    assert refusals(client.post("a\nb", trial["id"], {}))[0] == 400


# Sound


def test_each_token_is_a_sound(client, document):
    lengths = set()
    for trial in document["trials"]:
        for one in trial["stimuli"]:
            status, headers, body = client.get(f"/audio/{one['token']}")
            assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "audio/flac", "bytes")
            assert not {"ETag", "Last-Modified", "Content-Disposition"} & set(headers)
            lengths.add(soundfile.info(io.BytesIO(body)).duration)
    assert lengths == {0.8, 2.0}  # the samples, and the speaker's own clips


def test_a_part_of_a_sound_is_answered(client, document):
    path = f"/audio/{document['trials'][0]['stimuli'][0]['token']}"
    _, _, whole = client.get(path)
    for asked, part in (("bytes=0-9", whole[:10]), ("bytes=100-", whole[100:]), ("bytes=-5", whole[-5:])):
        status, headers, body = client.get(path, Range=asked)
        assert (status, body, headers["Content-Length"]) == (206, part, str(len(part)))
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert client.get(path, Range="bytes=0-")[0] == 206
    status, headers, _ = client.get(path, Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    for odd in ("bytes=9-1", "items=0-1", "bytes=a-b", "bytes=0-1,3-4", "bytes=" + "9" * 400 + "-"):
        assert client.get(path, Range=odd)[0] in (200, 206, 416)


def test_a_head_tells_the_length_alone(client, document):
    path = f"/audio/{document['trials'][0]['stimuli'][0]['token']}"
    status, headers, body = client.ask("HEAD", path)
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(client.get(path)[2])))


def test_a_token_that_nobody_was_given_is_no_sound(client):
    for token in ("0" * 32, "a", "%00", "..%2f..%2fsession.json"):
        assert client.get(f"/audio/{token}")[0] == 404


# What goes wrong in the server


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "/secret/file"), RuntimeError("/secret/path")]
)
def test_what_goes_wrong_inside_tells_nothing_of_the_machine(error):
    from test_trials import session_of

    from xtts_gatekeeper.listening.server import make_app

    class Broken(Service):
        def __init__(self):
            self.session, self.complain = session_of(), print

        def trials_document(self, name):
            raise error

    asking = make_app(Broken(), "token", ["localhost"]).test_client()
    asking.get("/?token=token")
    answer = asking.get("/api/session?listener=A")
    assert answer.status_code in (500, 507)
    assert b"secret" not in answer.data
