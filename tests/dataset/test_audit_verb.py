"""The whole audit: what it counts, what it writes, and that it tells the truth about the stack."""

import json
import os
import random
import re
import struct
import subprocess
import tracemalloc
import wave
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Watched

from xtts_gatekeeper.data import LANGUAGES, load_ljspeech, write_metadata
from xtts_gatekeeper.dataset import exclusion
from xtts_gatekeeper.dataset.audit import audit
from xtts_gatekeeper.dataset.board import Board
from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.identity import fingerprint
from xtts_gatekeeper.dataset.selection import leave_out, read_names
from xtts_gatekeeper.dataset.verb import run_audit
from xtts_gatekeeper.errors import UserError

pytest.importorskip("soundfile")

RATE = 16000
WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "runs", "into", "wide", "green", "wood", "nobody")


def sentence(number, words=6):
    return " ".join(random.Random(number).choices(WORDS, k=words)).capitalize() + "."


def write_clip(file, seconds, seed=0):
    """Something with syllables, so to say: bursts of a buzz over faint noise."""
    chance = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    pitch = chance.uniform(90, 140)
    samples = []
    for number in range(int(seconds * RATE)):
        time = number / RATE
        loud = 0.0 if min(time, seconds - time) < 0.1 else max(0.0, ((time * 4.3) % 1.0) * (1 - (time * 4.3) % 1.0) * 4)
        buzz = 2 * ((time * pitch) % 1.0) - 1
        samples.append(round(32767 * (0.25 * loud * buzz + 0.0005 * chance.uniform(-1, 1))))
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Eight clips of which XTTS takes every one."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(8):
        write_clip(folder / f"wavs/c{number}.wav", 1.5 + 0.2 * number, number)
    write_metadata(folder, {f"c{number}": sentence(number) for number in range(8)})
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Eight clips that XTTS takes, and six that it does not."""
    folder = tmp_path_factory.mktemp("bad")
    for number in range(8):
        write_clip(folder / f"wavs/c{number}.wav", 1.5 + 0.2 * number, number)
    write_clip(folder / "wavs/short.wav", 0.4, 20)
    write_clip(folder / "wavs/long.wav", 12.0, 21)
    write_clip(folder / "wavs/mute.wav", 2.0, 22)
    write_clip(folder / "wavs/umlaut.wav", 2.1, 23)
    (folder / "wavs/noise.wav").write_text("this is no audio\n" * 50)
    texts = {f"c{number}": sentence(number) for number in range(8)}
    texts |= {"short": "No.", "long": sentence(30, 30), "mute": "", "umlaut": "Grüße an alle <b>&</b>."}
    texts |= {"noise": "Nothing.", "gone": "Not there."}
    write_metadata(folder, texts)
    return folder


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    specials = ["[STOP]", "[UNK]", "[SPACE]", *(f"[{language}]" for language in LANGUAGES)]
    names = [*specials, *"abcdefghijklmnopqrstuvwxyz.,'!?", "[START]"]
    model = tokenizers.models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens([*specials, "[START]"])
    file = tmp_path_factory.mktemp("vocab") / "vocab.json"
    tokenizer.save(str(file))
    return file


UNUSABLE = {
    "short": "too_short",
    "long": "too_long",
    "mute": "empty_text",
    "umlaut": "unknown_token",
    "noise": "unreadable",
    "gone": "no_file",
}


def test_every_clip_that_xtts_cannot_use_is_named_with_its_reason(bad, vocab):
    pytest.importorskip("TTS")
    with audit(bad, language="en", vocab=vocab) as result:
        found = {fault["clip"]: fault["code"] for fault in result.faults(["unusable"])}
        document = result.to_dict()
    assert found == UNUSABLE
    assert (document["clips"], document["usable"]) == (14, 8)
    assert document["bad"] >= 6
    assert document["not_checked"] == []
    (group,) = document["groups"]
    assert group["share"] == 1
    assert group["draws_per_epoch"] == pytest.approx(14 / 8)


def test_without_a_vocabulary_tokens_are_said_not_to_be_checked(bad, monkeypatch, tmp_path):
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    with audit(bad, language="en") as result:
        assert {fault["code"] for fault in result.faults(["unusable"])} == set(UNUSABLE.values()) - {"unknown_token"}
        (said,) = result.not_checked
    assert "--vocab" in said


def test_a_second_run_starts_no_tokenizer_and_no_decoder(bad, vocab, monkeypatch):
    pytest.importorskip("TTS")
    with audit(bad, language="en", vocab=vocab) as result:
        before = [dict(fault) for fault in result.faults()]
    from xtts_gatekeeper.dataset import scan

    def started(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr("xtts_gatekeeper.dataset.tokens.subprocess.Popen", started)
    monkeypatch.setattr(scan.subprocess, "Popen", started)
    with audit(bad, language="en", vocab=vocab) as result:
        assert [dict(fault) for fault in result.faults()] == before


def test_limits_are_the_ones_given_the_runs_or_the_defaults(good, tmp_path):
    with audit(good, language="en", limits={"max_wav_length": 40000}) as result:
        assert {fault["code"] for fault in result.faults(["unusable"])} == {"too_long"}
    config = {"audio": {"sample_rate": 22050}, "model_args": {"max_wav_length": 40000}}
    config["datasets"] = [{"formatter": "ljspeech", "path": str(good), "meta_file_train": "metadata.csv"}]
    config["datasets"][0]["language"] = "en"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with audit(tmp_path) as result:
        assert result.limits.max_wav_length == 40000
        assert {fault["code"] for fault in result.faults(["unusable"])} == {"too_long"}


def test_the_fingerprint_is_the_one_that_trainings_write_down(good, tmp_path):
    with audit(good, language="en") as result:
        assert result.fingerprint == fingerprint(load_ljspeech(good, "en"))
    with audit(good, language="fr") as other:
        assert other.fingerprint != result.fingerprint


def test_a_file_that_is_listed_twice_is_found_and_its_faults_find_their_line(good, tmp_path):
    file = tmp_path / "list.csv"
    audio = good / "wavs/c0.wav"
    file.write_text(f"audio_file|text\n{audio}|One two three.\n{good / 'wavs/c1.wav'}|Four.\n{audio}|Five six seven.\n")
    with audit(file, language="en") as result:
        (fault,) = [fault for fault in result.faults() if fault["code"] == "listed_twice"]
        assert result.to_dict()["clips"] == 3
    assert fault["text"] == "Five six seven."
    assert fault["where"] == "list.csv:4"


def test_exit_codes(good, bad, tmp_path, capsys):
    assert run_audit(bad, language="en") == 1
    with audit(good, language="en") as result:
        expected = 1 if result.bad else 0
    assert run_audit(good, language="en") == expected
    with pytest.raises(UserError):
        run_audit(tmp_path / "nowhere", language="en")
    assert "c0" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"faults": "hrad"}, "'hard'"),
        ({"faults": " "}, "names none"),
        ({"html": Path("no/such/folder/a.html")}, "does not exist"),
        ({"exclude_list": Path()}, "cannot be written"),
        ({"vocab": Path("no/vocab.json")}, "--vocab"),
        ({"language": "eng"}, "nearest"),
    ],
)
def test_what_is_of_no_use_is_said_before_the_work(good, options, said, monkeypatch):
    monkeypatch.setattr("xtts_gatekeeper.dataset.audit._measure", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=said):
        run_audit(good, **{"language": "en", **options})


def test_json_is_one_document_with_every_fault(bad, capsys):
    run_audit(bad, language="en", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert sum(one["faults"] for one in document["totals"]) == len(document["faults"])
    severities = [fault["severity"] for fault in document["faults"]]
    order = ["unusable", "hard", "soft", "note"]
    assert severities == sorted(severities, key=order.index)
    assert {"clip", "code", "message", "audio_file", "text", "where", "value"} <= set(document["faults"][0])
    assert document["histograms"]["seconds"]["count"] == sum(document["histograms"]["seconds"]["counts"])


def test_the_table_names_what_is_wrong(bad, capsys):
    run_audit(bad, language="en", show=50)
    out = capsys.readouterr().out
    assert "14 clips" in out
    assert "replaces" in out
    for code in set(UNUSABLE.values()) - {"unknown_token"}:
        assert code in out
    assert "longer than max_wav_length" in out


def test_the_exclusion_list_leaves_out_what_it_should(bad, tmp_path, monkeypatch, capsys):
    file = tmp_path / "exclude.txt"
    assert run_audit(bad, language="en", exclude_list=file, faults="unusable") == 1
    names = read_names(file)
    samples = [{"audio_file": str(bad / f"wavs/{name}.wav")} for name in ("c0", "short", "long", "noise", "mute", "c1")]
    kept, unknown = leave_out(samples, names)
    assert [Path(sample["audio_file"]).stem for sample in kept] == ["c0", "c1"]
    assert [Path(name).stem for name in unknown] == ["gone"]
    assert "# too_short: 0.40 s" in file.read_text()
    # And with the data folder named as a user in another folder names it.
    monkeypatch.chdir(bad / "wavs")
    relative = [{"audio_file": f"short{suffix}"} for suffix in (".wav",)]
    assert leave_out(relative, names)[0] == []
    assert str(file) in capsys.readouterr().err


def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "exclude.txt"
    file.write_text("old\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exclusion.os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        exclusion.write_whole(file, "new\n")
    assert file.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["exclude.txt"]


def test_what_a_text_or_a_path_holds_makes_no_line_of_a_list(tmp_path):
    fault = {"code": "rate", "message": "a\nb", "audio_file": "/data/a.wav"}
    others = [{**fault, "audio_file": name} for name in (None, "/data/a\nb.wav", "/data/\udcff.wav")]
    twice = {**fault, "code": "listed_twice", "audio_file": "/data/b.wav"}
    assert exclusion.write_exclusions(tmp_path / "list", [fault, twice, *others], "head\nline") == 1
    assert (tmp_path / "list").read_text() == "# head line\n# rate: a b\n/data/a.wav\n"
    assert read_names(tmp_path / "list") == ["/data/a.wav"]


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(bad, vocab, tmp_path_factory):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    file = tmp_path_factory.mktemp("page") / "audit.html"
    run_audit(bad, language="en", vocab=vocab, html=file)
    return file


def test_the_page_asks_for_nothing_and_escapes_what_it_shows(page):
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    assert not found.open
    for tag, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
        assert tag not in ("script", "link", "iframe", "b")
    assert not re.search(r"url\((?!#)", text)
    assert "Grüße an alle <b>&</b>." in "".join(found.words)
    sounds = [attributes["src"] for tag, attributes in found.tags if tag == "audio"]
    assert 3 <= len(sounds) <= 30
    assert all(sound.startswith("data:audio/mpeg;base64,") for sound in sounds)
    assert len(text) < 1_000_000


def test_the_figure_takes_the_colour_of_the_page(page):
    text = page.read_text(encoding="utf-8")
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "Length, seconds" in svg


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_and_plays_the_page(page, chromium, scheme):
    watched = Watched()
    tab = watched.watch(chromium.new_page(color_scheme=scheme, viewport={"width": 390, "height": 800}))
    tab.goto(page.as_uri())
    play = """async () => { const one = document.querySelector('audio'); one.load();
        await new Promise((done, failed) => { one.onloadedmetadata = done; one.onerror = failed; });
        return one.duration; }"""
    assert tab.evaluate(play) > 0.3
    ink = tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == ("rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)")
    assert watched.elsewhere(page.as_uri()) == []
    assert watched.said == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_kill_by_ctrl_c_leaves_no_file_and_no_process(good, vocab, tmp_path, monkeypatch):
    from xtts_gatekeeper.dataset import tokens

    started = []
    real = subprocess.Popen

    def remember(*args, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    monkeypatch.setenv("XTTS_GATEKEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens.subprocess, "Popen", remember)

    def interrupt(stage, _done, _all):
        if stage == "listening":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), audit(good, language="en", vocab=vocab, progress=interrupt):
        pytest.fail("there was no interruption")
    assert started
    assert all(process.poll() is not None for process in started)


def test_memory_does_not_grow_with_the_number_of_clips():
    def peak(count):
        tracemalloc.start()
        with Board.open() as board:
            board.enter(Clip(f"clip {n}", f"/data/{n}.wav", f"Text {n}.", "en", "ann", f"m:{n}") for n in range(count))
            board.add(Fault(f"clip {n}", "quiet", "soft", "it is quiet", float(n)) for n in range(count))
            for _ in board.clips():
                pass
            for _ in board.faults():
                pass
            for _ in board.new_texts():
                pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(8000) - peak(2000) < 500_000  # bytes; six thousand clips and faults in memory are some megabytes


def test_the_verb_imports_neither_torch_nor_tts(python):
    done = python(
        "-c",
        "import sys, xtts_gatekeeper.dataset.verb; print(sorted({'torch', 'TTS', 'numpy', 'rich'} & {*sys.modules}))",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_check_at_the_start_of_a_training_says_the_same_as_the_audit(bad, vocab, tmp_path):
    pytest.importorskip("TTS")
    from functools import partial

    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    from xtts_gatekeeper.dataset.check import sentences, unusable_samples
    from xtts_gatekeeper.dataset.store import Store
    from xtts_gatekeeper.dataset.tokens import encode
    from xtts_gatekeeper.dataset.usable import Limits

    with audit(bad, language="en", vocab=vocab) as result:
        samples = [
            {"audio_file": clip.audio_file, "text": clip.text, "language": clip.language}
            for clip, _ in result.board.clips()
        ]
    tokenizer = partial(encode, VoiceBpeTokenizer(str(vocab)))
    measured = unusable_samples(samples, Limits(), tokenizer)
    with Store.open(tmp_path / "empty") as store:
        by_header = unusable_samples(samples, Limits(), tokenizer, store)
    for faults in (measured, by_header):
        assert {Path(fault.clip).stem: fault.code for fault in faults} == UNUSABLE
    said = sentences(by_header, len(samples))
    assert "6 of 14 clips" in said[0]
    assert any("too_short, 1 clip: short.wav: 0.40 s" in sentence for sentence in said)
    assert sentences([], 3) == []


def test_verify_finds_what_size_and_time_of_change_do_not_show(tmp_path):
    for number in range(2):
        write_clip(tmp_path / f"wavs/c{number}.wav", 1.0, number)
    write_metadata(tmp_path, {f"c{number}": sentence(number) for number in range(2)})

    def heard(**options):
        with audit(tmp_path, language="en", **options) as result:
            return result.fingerprint

    before = heard()
    file = tmp_path / "wavs/c1.wav"
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-4000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert heard() == before
    assert heard(verify=True) != before


def test_a_clip_of_an_hour_leaves_the_histogram_of_the_others_readable():
    with Board.open() as board:
        board.enter(Clip(f"c{n}", f"/{n}.wav", "Text.", "en") for n in range(300))
        board.measured(
            (clip, Audio("0", seconds=3600.0 if n == 7 else 2 + n / 100), str(n), True)
            for n, (clip, _) in enumerate(list(board.clips()))
        )
        found = board.histogram("seconds", 10)
        assert board.histogram("snr_db", 10) is None
    assert (found["min"], found["max"], found["count"]) == (2.0, 3600.0, 300)
    assert sum(found["counts"]) == 300
    assert sum(count > 10 for count in found["counts"]) >= 6
