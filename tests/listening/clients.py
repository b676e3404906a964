"""A listener without a browser, and the real server process to talk to."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20


class Client:
    """What a browser would do, with a connection for each request."""

    def __init__(self, link):
        self.link = link
        parts = urlsplit(link)
        self.host, self.port, self.token = parts.hostname, parts.port, parts.query.removeprefix("token=")
        self.origin = f"http://{parts.netloc}"
        self.cookie = self.csrf = None

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        sent = {"Cookie": self.cookie} if self.cookie else {}
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def enter(self):
        """Follow the link: the cookie, and the token of the page."""
        status, headers, _ = self.ask("GET", f"/?token={self.token}")
        assert status == 303
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        _, _, page = self.get("/")
        self.csrf = re.search(rb'name="csrf" content="([^"]+)"', page)[1].decode()
        return self

    def session(self, name):
        status, _, body = self.get(f"/api/session?listener={quote(name)}")
        assert status == 200, body
        return json.loads(body)

    def post(self, listener, trial, answer, **headers):
        """(status, document) of one answer."""
        body = json.dumps({"listener": listener, "trial": trial, "answer": answer})
        return self.post_text(body, **headers)

    def post_text(self, body, **headers):
        sent = {"Content-Type": "application/json", "X-CSRF-Token": self.csrf, "Origin": self.origin}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, answer = self.ask(
            "POST", "/api/answer", body, {name: value for name, value in sent.items() if value is not None}
        )
        return status, json.loads(answer)

    def answer_all(self, name, mark=lambda trial, stimulus: 3, **more):
        """Answer every trial; `mark` gives that of all rows of a stimulus."""
        document = self.session(name)
        for trial in document["trials"]:
            status, said = self.post(name, trial["id"], whole_answer(document, trial, mark, **more))
            assert status == 200, said
        return said

    def result(self, name):
        status, _, body = self.get(f"/api/result?listener={quote(name)}")
        return status, json.loads(body)


def whole_answer(document, trial, mark=lambda trial, stimulus: 3, **more):
    """A complete answer to a trial of a session's document: the first sample is preferred."""
    rows = [row["key"] for row in document["rows"]]
    return {
        "marks": {one["token"]: dict.fromkeys(rows, mark(trial, one)) for one in trial["stimuli"]},
        "preferred": trial["stimuli"][0]["token"] if trial["preference"] else None,
        **more,
    }


def start(run, *arguments, **environment):
    """The process of `listen`, and a client that has its link."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xtts_gatekeeper", "listen", str(run), "--no-browser", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Listen at "):
            return process, Client(line.split()[-1])
    raise AssertionError(f"no link came: {process.communicate()[1]}")


@contextlib.contextmanager
def listening(run, *arguments):
    """A client of the real process, which is ended afterwards."""
    process, client = start(run, *arguments)
    try:
        yield client.enter()
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)
