"""What `export` refuses, and which clips it takes. What it writes is tested in `integration/test_export.py`."""

import json
import os
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import pytest

from xtts_gatekeeper.checkpoints.export import export
from xtts_gatekeeper.checkpoints.export_card import choose_clips
from xtts_gatekeeper.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkpoint(tmp_path):
    """A whole file, as far as its zip structure tells."""
    path = tmp_path / "run" / "best_model_5.pth"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle")
    return path


def recording(path, seconds):
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\1\0" * int(8000 * seconds))
    return path


def refused(*arguments, **options):
    with pytest.raises(UserError) as caught:
        export(*arguments, **options)
    return str(caught.value)


def test_a_folder_that_is_not_empty_is_left_alone(checkpoint, tmp_path):
    mine = tmp_path / "voice" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert "is not empty" in refused(checkpoint, mine.parent)
    assert "is a file" in refused(checkpoint, mine)
    assert mine.read_text() == "mine"


def test_a_folder_left_by_a_kill_is_named(checkpoint, tmp_path):
    (tmp_path / "voice.partial").mkdir()
    assert "voice.partial is left from an export that was cut short" in refused(checkpoint, tmp_path / "voice")


def test_nothing_to_export(tmp_path):
    assert "does not exist" in refused(tmp_path / "no-run", tmp_path / "voice")
    assert "no best checkpoint" in refused(tmp_path, tmp_path / "voice")


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-20])
    assert "it is no whole zip archive" in refused(checkpoint, tmp_path / "voice")


def test_a_reference_that_is_not_there(checkpoint, tmp_path):
    assert "is no file" in refused(checkpoint, tmp_path / "voice", references=[tmp_path / "no.wav"])


def test_without_the_stack_one_sentence_names_the_extra(checkpoint, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from xtts_gatekeeper.cli import main\n"
        f"sys.argv = ['x', 'export', {str(checkpoint)!r}, '-o', {str(tmp_path / 'voice')!r}]\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "xtts-gatekeeper[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_of_another_kind_is_refused(checkpoint, tmp_path):
    pytest.importorskip("TTS")
    assert "cannot be read as plain weights" in refused(checkpoint, tmp_path / "voice")
    assert not (tmp_path / "voice").exists()


# Clips of the voice


@pytest.fixture
def noted(tmp_path):
    """A function that notes held-out clips of (seconds, speaker) in a run folder and returns it."""
    pytest.importorskip("soundfile")

    def note(*clips):
        run = tmp_path / "run"
        (run / "gatekeeper").mkdir(parents=True)
        listed = [
            {
                "audio_file": str(recording(tmp_path / "clips" / f"{number}.wav", seconds)),
                "text": f"text {number}",
                "language": "en",
                "speaker_name": speaker,
            }
            for number, (seconds, speaker) in enumerate(clips)
        ]
        (run / "gatekeeper" / "eval_clips.json").write_text(json.dumps(listed))
        return run

    return note


def texts(clips):
    return [clip.text for clip in clips]


def test_held_out_clips_are_the_longest_of_a_fit_length(noted):
    run = noted((2.9, "a"), (4, "a"), (12.5, "a"), (6, "a"), (3, "a"), (11, "a"))
    chosen = choose_clips(run, {}, ())
    assert texts(chosen) == ["text 5", "text 3", "text 1"]
    assert [clip.name for clip in chosen] == ["reference_1.wav", "reference_2.wav", "reference_3.wav"]


def test_held_out_clips_are_of_one_speaker(noted):
    assert texts(choose_clips(noted((4, "a"), (9, "b"), (6, "a"), (5, "b")), {}, ())) == ["text 1", "text 3"]


def test_held_out_clips_that_are_gone_are_passed_over(noted, tmp_path):
    run = noted((4, "a"), (9, "a"))
    (tmp_path / "clips" / "1.wav").unlink()
    assert texts(choose_clips(run, {}, ())) == ["text 0"]


def test_a_list_of_held_out_clips_that_is_none_is_passed_over(noted):
    run = noted((4, "a"))
    for content in ("", "{}", "[1]", '[{"text": "x"}]', "null"):
        (run / "gatekeeper" / "eval_clips.json").write_text(content)
        assert choose_clips(run, {}, ()) == []


def test_clips_that_are_given_come_first_then_those_of_the_test_sentences(noted, tmp_path):
    run = noted((4, "a"), (9, "a"))
    voice, given = recording(tmp_path / "clips" / "v.wav", 2), recording(tmp_path / "clips" / "g.wav", 1)
    sentences = [
        {"text": "one", "speaker_wav": str(voice), "language": "en"},
        {"text": "two", "speaker_wav": [str(voice), "/gone.wav"], "language": "en"},
        "old style",
    ]
    config = {"test_sentences": sentences}
    assert [clip.path for clip in choose_clips(run, config, [given, given])] == [given]
    assert [(clip.path, clip.text) for clip in choose_clips(run, config, ())] == [(voice, "one")]


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "has 0.20 s; XTTS needs"), (None, "cannot be read as audio")])
def test_a_given_clip_that_is_no_use_is_refused(tmp_path, seconds, said):
    pytest.importorskip("soundfile")
    path = tmp_path / "clips" / "x.wav"
    recording(path, seconds or 1)
    if seconds is None:
        path.write_text("no audio")
    with pytest.raises(UserError, match=said):
        choose_clips(tmp_path, {}, [path])
