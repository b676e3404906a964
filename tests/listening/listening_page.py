"""The listening page as its users have it: a server process of its own, and a person who presses keys."""

import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=20_000)  # a machine that also runs other tests takes its time


class Server:
    """`xtts-gatekeeper listen RUN`, which can be killed and started again at the same port."""

    def __init__(self, run):
        self.run, self.link, self._process = run, "", None

    @property
    def origin(self):
        return "http://" + urlsplit(self.link).netloc

    def start(self):
        port = str(urlsplit(self.link).port or 0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xtts_gatekeeper", "listen", str(self.run), "--no-browser", "--port", port],
            stdout=subprocess.PIPE,
            text=True,
        )
        begin = "Listen at "
        self.link = next(line for line in self._process.stdout if line.startswith(begin)).removeprefix(begin).strip()
        return self

    def kill(self):
        self._process.kill()
        self._process.communicate()


@contextmanager
def serving(run):
    """A server of a run for as long as the block lasts."""
    server = Server(run).start()
    try:
        yield server
    finally:
        server.kill()


class Listener:
    """A person in front of a page that is open: what is said is kept in `marks`, by trial, label and row."""

    def __init__(self, page):
        self.page = page

    def begin(self, name):
        self.page.get_by_label("Who listens?").fill(name)
        self.press("Enter")
        return self.arrives(1)

    def arrives(self, number):
        """Wait until the page shows a sentence and its sounds can be played."""
        expect(self.page.get_by_role("heading", level=1)).to_contain_text(f"Sentence {number} of")
        for bar in self.page.locator(".position").all():
            expect(bar).to_be_enabled()
        return self

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        return self

    @property
    def labels(self):
        return self.page.locator(".stimulus .label").all_inner_texts()

    @property
    def trials(self):
        return self.page.locator(".progress").evaluate("bar => bar.max")

    def hear(self, label):
        """Choose a sample, start it, and stop it when it is heard."""
        self.press(label, "Space")
        expect(self.page.locator(".stimulus.chosen[data-heard]")).to_have_count(1)
        return self.press("Space")

    def answer(self, marks="43512"):
        """Everything that a trial asks for, by keys; the first sample is preferred."""
        for label in self.labels:
            self.hear(label).press(*marks)
        if self.page.locator(".preference").is_visible():
            self.press("p", "a")
        return self

    def answer_all(self):
        """Every trial from this one on, to the thanks."""
        for number in range(self.number, self.trials + 1):
            self.arrives(number).answer().press("Enter")
        return self.thanked()

    @property
    def number(self):
        return int(self.page.get_by_role("heading", level=1).inner_text().split()[1])

    def thanked(self):
        expect(self.page.get_by_role("heading", name="Thank you")).to_be_visible()
        return self

    def saved(self):
        expect(self.page.locator(".kept")).to_have_text("Saved")
        return self

    def checked(self, name):
        """The values that are checked, of the radio buttons and checkboxes whose names begin so."""
        boxes = self.page.locator(f'input[name^="{name}"]:checked')
        return boxes.evaluate_all("boxes => boxes.map(box => box.value)")


def kept_answers(page, name):
    """What the server has of a listener: the document of the session, and the answers in the order of its trials."""
    origin = "http://" + urlsplit(page.url).netloc
    document = page.request.get(f"{origin}/api/session", params={"listener": name}).json()
    return document, [document["answers"].get(trial["id"]) for trial in document["trials"]]
