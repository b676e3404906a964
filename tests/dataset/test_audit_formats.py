"""Metadata becomes a stream of clips, and a line that is wrong is a fault of that line and of no other."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.dataset.clip import Clip, Fault
from xtts_gatekeeper.dataset.formats import COQUI, LJSPEECH, Metadata, guess_format
from xtts_gatekeeper.dataset.source import open_source
from xtts_gatekeeper.errors import UserError


def write(folder, content, name="metadata.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(folder, content, kind, language="en"):
    entries = list(Metadata(folder, write(folder, content), kind, language).entries())
    return [e for e in entries if isinstance(e, Clip)], [e for e in entries if isinstance(e, Fault)]


def test_ljspeech_takes_the_last_text_that_is_not_empty(tmp_path):
    clips, faults = read(tmp_path, "a|One|one\nsub/b|Two|\n\nc|Three\r\n", LJSPEECH)
    assert [(clip.name, clip.text) for clip in clips] == [("a", "one"), ("sub/b", "Two"), ("c", "Three")]
    assert clips[1].audio_file == str(tmp_path / "wavs/sub/b.wav")
    assert clips[2].where == "metadata.csv:4"
    assert not faults


def test_ljspeech_reads_what_our_own_loader_reads(speech):
    from xtts_gatekeeper.data import load_ljspeech

    clips = list(open_source(speech, language="en").entries())
    samples = load_ljspeech(speech)
    assert [(clip.audio_file, clip.text) for clip in clips] == [
        (str(Path(sample["audio_file"]).absolute()), sample["text"]) for sample in samples
    ]


@pytest.mark.parametrize(
    ("line", "code", "stays"),
    [
        ("only an id", "columns", False),
        ("|text", "bad_id", False),
        ("../a|text", "bad_id", False),
        ("a|b|c|d", "columns", True),
        (b"a|caf\xe9", "encoding", False),
    ],
)
def test_a_line_of_ljspeech_that_is_wrong_is_a_fault_and_not_the_end(tmp_path, line, code, stays):
    line = line if isinstance(line, bytes) else line.encode()
    clips, faults = read(tmp_path, b"x|first\n" + line + b"\ny|last\n", LJSPEECH)
    assert [fault.code for fault in faults] == [code]
    assert [clip.name for clip in clips] == (["x", "a", "y"] if stays else ["x", "y"])
    assert all(fault.severity == "hard" for fault in faults)


def test_coqui_reads_what_the_stock_reader_reads(tmp_path):
    from TTS.tts.datasets.formatters import coqui

    lines = [
        "audio_file|text|speaker_name",
        "a.wav|Plain.|ann",
        'b.wav|"A ""quoted"" text"|bob',
        'c.wav|The "word" inside.|ann',
        "sub/d.wav|Späte Grüße|",
        "e.wav|A text | cut in two|ann",
        "f.wav",
        'g.wav|"never closed|ann',
        "h.wav|swallowed|ann",
    ]
    for name in "abcefgh":
        (tmp_path / f"{name}.wav").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/d.wav").touch()
    clips, faults = read(tmp_path, "\n".join(lines) + "\n", COQUI)
    stock = {sample["audio_file"]: sample for sample in coqui(str(tmp_path), "metadata.csv")}
    without_text = stock.pop(str(tmp_path / "f.wav"))
    assert without_text["text"] is None
    assert {c.audio_file: (c.text, c.speaker) for c in clips} == {
        path: (sample["text"], sample["speaker_name"] or "") for path, sample in stock.items()
    }
    assert [(fault.clip, fault.code) for fault in faults] == [
        ("e.wav", "columns"),
        ("metadata.csv:7", "columns"),
        ("g.wav", "open_quote"),
    ]
    assert "next 1 line" in faults[-1].message


def test_coqui_passes_over_an_undecodable_line_and_names_it(tmp_path):
    content = b"audio_file|text\na.wav|one\nb.wav|caf\xe9\nc.wav|three\n"
    clips, faults = read(tmp_path, content, COQUI)
    assert [clip.name for clip in clips] == ["a.wav", "c.wav"]
    assert [(fault.clip, fault.code) for fault in faults] == [("metadata.csv:3", "encoding")]
    assert clips[1].where == "metadata.csv:4"
    assert {clip.speaker for clip in clips} == {"coqui"}


def test_coqui_says_that_a_byte_order_mark_hides_the_first_column(tmp_path):
    clips, faults = read(tmp_path, b"\xef\xbb\xbfaudio_file|text\na.wav|one\n", COQUI)
    assert [clip.name for clip in clips] == ["a.wav"]
    assert [fault.code for fault in faults] == ["byte_order_mark"]


def test_the_format_is_guessed_by_the_content(tmp_path):
    assert guess_format(write(tmp_path, "a|one\nb|two\n")) == LJSPEECH
    assert guess_format(write(tmp_path, "audio_file|text|speaker_name\nb|two|x\n")) == COQUI
    with pytest.raises(UserError, match="--formatter"):
        guess_format(write(tmp_path, "path,text\na.wav,hello\n"))
    with pytest.raises(UserError, match="lists no clip"):
        guess_format(write(tmp_path, "\n\n"))
    with pytest.raises(UserError, match="not text"):
        guess_format(write(tmp_path, b"RIFF\0\0\0\0WAVE"))


def test_the_language_is_that_of_the_metadata_or_asked_for(tmp_path):
    write(tmp_path, "a|one\n")
    with pytest.raises(UserError, match="--language"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="nearest"):
        open_source(tmp_path, language="eng")
    (tmp_path / "lang.txt").write_text("fr\n")
    assert [clip.language for clip in open_source(tmp_path).entries()] == ["fr"]
    write(tmp_path / "column", "audio_file|text|language\na.wav|one|ru\nb.wav|two|it\n")
    assert [clip.language for clip in open_source(tmp_path / "column").entries()] == ["ru", "it"]


def test_the_two_files_of_coquis_fine_tuning_page_are_read_one_after_the_other(tmp_path):
    write(tmp_path, "audio_file|text|speaker_name\na.wav|one|x\n", "metadata_train.csv")
    write(tmp_path, "audio_file|text|speaker_name\nb.wav|two|x\n", "metadata_eval.csv")
    (tmp_path / "lang.txt").write_text("en")
    assert [clip.name for clip in open_source(tmp_path).entries()] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_data_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        open_source(tmp_path / name, language="en")


def test_another_formatter_of_coquis_is_used_by_its_name(tmp_path):
    write(tmp_path, "client_id\tpath\tsentence\nann\ta.mp3\tHello there.\n", "train.tsv")
    (clip,) = open_source(tmp_path / "train.tsv", "common_voice", "en").entries()
    assert (clip.name, clip.text, clip.speaker) == ("clips/a.mp3", "Hello there.\n", "MCV_ann")
    assert clip.audio_file == str(tmp_path / "clips/a.mp3")
    with pytest.raises(UserError, match="common_voice"):
        list(open_source(tmp_path / "train.tsv", "common_vioce", "en").entries())
    with pytest.raises(UserError, match="cannot read"):
        list(open_source(tmp_path / "train.tsv", "cml_tts", "en").entries())


def run_folder(folder, config, held_out=None):
    (folder / "gatekeeper").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if held_out is not None:
        (folder / "gatekeeper/eval_clips.json").write_text(json.dumps(held_out))
    return folder


def test_the_data_of_a_stock_run_is_that_of_its_config(tmp_path):
    write(tmp_path / "data", "a|one|one\n", "train.csv")
    write(tmp_path / "data", "b|two|two\n", "val.csv")
    entry = {"formatter": "ljspeech", "path": str(tmp_path / "data"), "meta_file_train": "train.csv"}
    entry |= {"meta_file_val": "val.csv", "language": "de", "ignored_speakers": None, "dataset_name": "x"}
    source = open_source(run_folder(tmp_path / "run", {"datasets": [{"path": ""}, entry]}))
    assert [(clip.name, clip.language) for clip in source.entries()] == [("a", "de"), ("b", "de")]
    (tmp_path / "data/val.csv").unlink()
    with pytest.raises(UserError, match=r"val\.csv"):
        open_source(tmp_path / "run")


def test_the_data_of_a_run_of_ours_is_where_its_clips_lie(tmp_path):
    write(tmp_path / "data", "a|one\nb|two\n")
    held_out = [{"text": "two", "language": "ru", "speaker_name": "x"}]
    held_out = [{**held_out[0], "audio_file": f"{tmp_path}/{way}wavs/b.wav"} for way in ("data/", "data/../data/")]
    run = run_folder(tmp_path / "run", {"datasets": []}, held_out)
    assert [(clip.name, clip.language) for clip in open_source(run).entries()] == [("a", "ru"), ("b", "ru")]
    (tmp_path / "data/metadata.csv").unlink()
    source = open_source(run)
    assert [(clip.text, clip.speaker) for clip in source.entries()] == [("two", "x")] * 2
    assert "only the 2 clips it was evaluated with" in source.said[0]
    with pytest.raises(UserError, match="does not say where its data is"):
        open_source(run_folder(tmp_path / "other", {"datasets": []}))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=30), max_size=12))
@pytest.mark.parametrize("kind", [LJSPEECH, COQUI])
def test_no_text_whatever_ends_the_reading(tmp_path_factory, kind, lines):
    folder = tmp_path_factory.mktemp("any")
    header = "audio_file|text\n" if kind == COQUI else "first|line\n"
    entries = list(Metadata(folder, write(folder, header + "\n".join(lines)), kind, "en").entries())
    assert all(isinstance(entry, Clip | Fault) for entry in entries)


PIECES = st.sampled_from(["a.wav", "b.wav", "Some text", "ann", "|", "|", '"', '""', " ", "\n", "\r\n", "\r", "é", ","])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_coquis_own_reader_reads_the_same_of_any_file(tmp_path_factory, pieces):
    pytest.importorskip("TTS")
    from unittest import mock

    from TTS.tts.datasets import formatters

    folder = tmp_path_factory.getbasetemp() / "same"
    clips, _ = read(folder, "audio_file|text|speaker_name\n" + "".join(pieces), COQUI)
    try:
        with mock.patch.object(formatters.os.path, "exists", lambda _path: True):
            stock = formatters.coqui(str(folder), "metadata.csv")
    except (IndexError, TypeError):  # no line, or one without audio: the stock reader ends there
        return
    root = Path(folder)
    assert [(clip.audio_file, clip.text, clip.speaker) for clip in clips] == [
        (os.path.abspath(sample["audio_file"]), sample["text"], sample["speaker_name"] or "")  # noqa: PTH100
        for sample in stock
        if sample["text"] is not None and sample["audio_file"] != os.path.join(root, "")  # noqa: PTH118
    ]
