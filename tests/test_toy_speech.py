import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtts_gatekeeper.data import LANGUAGES, load_ljspeech
from xtts_gatekeeper.dataset.split import stable_split
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.toy.sentences import SENTENCES
from xtts_gatekeeper.toy.speech import make_speech_set

soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the train extra")
pytest.importorskip("espeakng_loader", reason="espeakng-loader comes with the train extra")

ROOT = Path(__file__).parents[1]
FEW = SENTENCES[:4]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return make_speech_set(tmp_path_factory.mktemp("speech") / "toy" / "en")


def test_every_sentence_is_a_clip_of_one_to_two_and_a_half_seconds(speech):
    samples = load_ljspeech(speech)
    assert tuple(sample["text"] for sample in samples) == SENTENCES
    for sample in samples:
        info = soundfile.info(sample["audio_file"])
        assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
        assert 1.0 <= info.duration <= 2.5, sample["text"]


def test_clips_are_heard_and_differ(speech):
    samples = load_ljspeech(speech)
    assert all(soundfile.read(sample["audio_file"])[0].std() > 0.01 for sample in samples)
    assert len({Path(sample["audio_file"]).read_bytes() for sample in samples}) == len(samples)


def test_sentences_are_many_distinct_and_varied():
    assert len(SENTENCES) >= 90
    assert len({sentence.casefold() for sentence in SENTENCES}) == len(SENTENCES)
    assert sum(sentence.endswith("?") for sentence in SENTENCES) >= 10
    assert sum(any(map(str.isdigit, sentence)) for sentence in SENTENCES) >= 5
    assert all(3 <= len(sentence.split()) <= 9 for sentence in SENTENCES)
    assert set("abcdefghijklmnopqrstuvwxyz") <= set("".join(SENTENCES).casefold())


def test_speech_can_be_split_for_training(speech):
    train, held_out = stable_split(load_ljspeech(speech))
    assert len(train) > len(held_out) >= 5


def test_same_sentences_give_the_same_files_in_this_and_another_process(tmp_path):
    code = "import sys; from pathlib import Path; from xtts_gatekeeper.toy import speech as s, sentences as t; "
    outcome = run_python(code + "s.make_speech_set(Path(sys.argv[1]), t.SENTENCES[:4])", tmp_path / "process")
    assert outcome.returncode == 0, outcome.stderr
    first = contents(make_speech_set(tmp_path / "first", FEW))
    assert contents(make_speech_set(tmp_path / "second", FEW)) == first
    assert contents(tmp_path / "process") == first


def test_whole_folder_is_reused(tmp_path):
    folder = make_speech_set(tmp_path / "set", FEW)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    calls = []
    assert make_speech_set(folder, FEW, on_clip=lambda *progress: calls.append(progress)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert calls == []


def interrupt_after_two(done, total):
    if done == 2:
        raise KeyboardInterrupt


def test_interrupted_folder_is_not_taken_for_a_whole_one_and_is_finished_later(tmp_path):
    folder = tmp_path / "set"
    expected = contents(make_speech_set(tmp_path / "whole", FEW))
    for _ in ("made for the first time", "made again because a clip was lost"):
        with pytest.raises(KeyboardInterrupt):
            make_speech_set(folder, FEW, on_clip=interrupt_after_two)
        assert (folder / "wavs" / "en-0001.wav").is_file()
        with pytest.raises(UserError, match=r"no metadata\.csv"):
            load_ljspeech(folder)
        assert contents(make_speech_set(folder, FEW)) == expected
        (folder / "wavs" / "en-0003.wav").unlink()


def test_lost_clip_is_spoken_again(tmp_path):
    folder = make_speech_set(tmp_path / "set", FEW)
    expected = contents(folder)
    (folder / "wavs" / "en-0003.wav").unlink()
    assert contents(make_speech_set(folder, FEW)) == expected


def test_progress_is_told_clip_by_clip(tmp_path):
    calls = []
    make_speech_set(tmp_path, FEW, on_clip=lambda *progress: calls.append(progress))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_other_data_in_the_folder_is_never_overwritten(tmp_path):
    (tmp_path / "metadata.csv").write_text("mine|My own words.\n")
    before = contents(tmp_path)
    for sentences, language in ((FEW, "en"), (("My own words.",), "en")):
        with pytest.raises(UserError, match="already holds another data set"):
            make_speech_set(tmp_path, sentences, language)
    assert contents(tmp_path) == before


def test_set_in_one_language_is_no_set_in_another(tmp_path):
    make_speech_set(tmp_path, ("1 2 3",), "it")
    with pytest.raises(UserError, match="already holds another data set"):
        make_speech_set(tmp_path, ("1 2 3",), "ru")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_xtts_has_a_voice(tmp_path, language):
    (sample,) = load_ljspeech(make_speech_set(tmp_path, ("1 2 3",), language), language)
    assert soundfile.info(sample["audio_file"]).duration > 0.5


def test_languages_sound_different(tmp_path):
    clips = [make_speech_set(tmp_path / code, ("1 2 3",), code) / "wavs" / f"{code}-0001.wav" for code in ("en", "ru")]
    assert clips[0].read_bytes() != clips[1].read_bytes()


def test_unknown_language_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="nearest is 'en'"):
        make_speech_set(tmp_path / "set", FEW, "english")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("sentences", [(), ("",), ("...",), ("one|two",), ("one\ntwo",), ("one\rtwo",), ("Fine.", " ")])
def test_sentences_that_cannot_be_listed_are_refused(tmp_path, sentences):
    with pytest.raises(UserError, match=r"sentence .*; give"):
        make_speech_set(tmp_path / "set", sentences)
    assert not (tmp_path / "set").exists()


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "set").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        make_speech_set(tmp_path / "set", FEW)


@pytest.mark.parametrize("missing", ["espeakng_loader", "soundfile"])
def test_missing_package_is_refused_with_the_extra_to_install(tmp_path, missing):
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    outcome = run_python(
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path\n"
        "from xtts_gatekeeper.errors import refusing\n"
        "from xtts_gatekeeper.toy.speech import make_speech_set\n"
        "with refusing(): make_speech_set(Path(sys.argv[2]))",
        missing,
        tmp_path / "set",
    )
    assert outcome.returncode == 2, outcome.stderr
    assert missing in outcome.stderr
    assert "xtts-gatekeeper[train]" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_importing_needs_neither_torch_nor_tts_nor_numpy():
    outcome = run_python(
        "import sys, xtts_gatekeeper.data, xtts_gatekeeper.toy.speech\n"
        "print([name for name in ('torch', 'TTS', 'numpy', 'soundfile', 'espeakng_loader') if name in sys.modules])"
    )
    assert outcome.stdout == "[]\n", outcome.stderr
