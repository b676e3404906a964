import gzip
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from xtts_gatekeeper.data import load_ljspeech

soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the train extra")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "recipes" / "datasets" / "asterisk.py"
DEBIAN = Path("/usr/share")
FFMPEG = shutil.which("ffmpeg")

TRANSCRIPT = """\
; Core Asterisk Sounds, made up

plain: Please   hold the line.
digits/7: Seven of nine.
unfinished: …and then there were...
quoted: He left the room."
number: Press 2 to go on.
plain: The second text of one key.
noise: [a loud bang]
beeps: <beep ascending>
silence/1: (1 second of silence)
note: Leave a word (a tone follows)
star: press * or #
dots: ...
empty:
joined: first prompt some-key: second prompt
absent: This one has no audio.
short: Too short.
long: Much too long.
"""
SPOKEN = {
    "plain": "Please hold the line.",
    "digits-7": "Seven of nine.",
    "unfinished": "and then there were...",
    "quoted": "He left the room.",
    "number": "Press 2 to go on.",
}


def write_tone(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(8000)
        saw = b"".join(((i - 20) * 500).to_bytes(2, "little", signed=True) for i in range(40))
        audio.writeframes(saw * int(200 * seconds))


def write_g722(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(i * 7 % 256 for i in range(int(8000 * seconds))))


def write_transcript(source, language="en", text=TRANSCRIPT):
    folder = source / "doc" / f"asterisk-core-sounds-{language}"
    folder.mkdir(parents=True)
    path = folder / f"core-sounds-{language}.txt.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    return path


def make_source(source, kinds=("wav",), voice="en_US_f_Nobody"):
    write_transcript(source, voice[:2])
    keys = {line.partition(":")[0] for line in TRANSCRIPT.splitlines() if ":" in line} - {"absent"}
    for kind in kinds:
        write = {"wav": write_tone, "g722": write_g722}[kind]
        for key in keys:
            write(source / "asterisk" / "sounds" / voice / f"{key}.{kind}", {"short": 0.5, "long": 11.5}.get(key, 1.25))
    return source


def run_script(source, output, *options, path=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--source", str(source), "--output", str(output), *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def refusal(source, output, *options, path=None):
    """The one sentence that the script says when it exits with 2 and has written nothing."""
    before = sorted(output.rglob("*")) if output.exists() else None
    outcome = run_script(source, output, *options, path=path)
    assert outcome.returncode == 2, outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert (sorted(output.rglob("*")) if output.exists() else None) == before
    return outcome.stderr


def texts_by_id(folder, language="en"):
    return {Path(sample["audio_file"]).stem: sample["text"] for sample in load_ljspeech(folder, language)}


def test_only_clips_whose_text_is_sure_are_taken(tmp_path):
    source = make_source(tmp_path / "source")
    outcome = run_script(source, tmp_path / "set", "--language", "en")
    assert outcome.returncode == 0, outcome.stderr
    assert texts_by_id(tmp_path / "set") == SPOKEN
    wavs = sorted(path.stem for path in (tmp_path / "set" / "wavs").iterdir())
    assert wavs == sorted(SPOKEN)


def test_summary_counts_what_was_left_out(tmp_path):
    outcome = run_script(make_source(tmp_path / "source"), tmp_path / "set", "--language", "en")
    assert outcome.stdout == ""
    assert outcome.stderr == (
        f"{tmp_path / 'set'}: 5 clips, 6.2 s of en_US_f_Nobody (wav); "
        "left out 8 without a sure text, 1 without audio, 2 not 1 to 11 s long\n"
    )


def test_limits_are_the_users(tmp_path):
    source = make_source(tmp_path / "source")
    limits = ("--min-seconds", "0.5", "--max-seconds", "1.2")
    assert run_script(source, tmp_path / "set", "--language", "en", *limits).returncode == 0
    assert texts_by_id(tmp_path / "set") == {"short": "Too short."}


@pytest.mark.skipif(not FFMPEG, reason="ffmpeg is not installed")
def test_auto_prefers_g722_at_16_khz(tmp_path):
    source = make_source(tmp_path / "source", ("wav", "g722"))
    assert run_script(source, tmp_path / "wide", "--language", "en").returncode == 0
    assert run_script(source, tmp_path / "narrow", "--language", "en", "--format", "wav").returncode == 0
    for name, rate in (("wide", 16000), ("narrow", 8000)):
        info = soundfile.info(str(tmp_path / name / "wavs" / "plain.wav"))
        assert (info.samplerate, info.channels) == (rate, 1)
        assert info.duration == pytest.approx(1.25, abs=0.01)
    assert texts_by_id(tmp_path / "wide") == texts_by_id(tmp_path / "narrow") == SPOKEN


def test_auto_falls_back_to_wav_without_ffmpeg(tmp_path):
    source = make_source(tmp_path / "source", ("wav", "g722"))
    outcome = run_script(source, tmp_path / "set", "--language", "en", path=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert soundfile.info(str(tmp_path / "set" / "wavs" / "plain.wav")).samplerate == 8000


def test_g722_without_ffmpeg_says_how_to_get_it(tmp_path):
    source = make_source(tmp_path / "source", ("g722",))
    for kind in ("auto", "g722"):
        sentence = refusal(source, tmp_path / "set", "--language", "en", "--format", kind, path=tmp_path)
        assert "apt-get install ffmpeg" in sentence


def test_missing_package_is_named_with_its_command(tmp_path):
    source = make_source(tmp_path / "source")
    sentence = refusal(source, tmp_path / "set", "--language", "ru")
    assert "apt-get install asterisk-core-sounds-ru asterisk-core-sounds-ru-g722 ffmpeg" in sentence
    sentence = refusal(source, tmp_path / "set", "--language", "en", "--format", "g722")
    assert "apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg" in sentence
    sentence = refusal(tmp_path / "nowhere", tmp_path / "set", "--language", "it", "--format", "wav")
    assert sentence.endswith("apt-get install asterisk-core-sounds-it asterisk-core-sounds-it-wav\n")


def test_stripped_documentation_is_recognised(tmp_path):
    source = make_source(tmp_path / "source")
    shutil.rmtree(source / "doc")
    sentence = refusal(source, tmp_path / "set", "--language", "en")
    assert "--reinstall" in sentence
    assert "path-include=/usr/share/doc/*" in sentence


def test_byte_order_mark_belongs_to_no_key(tmp_path):
    source = make_source(tmp_path / "source")
    shutil.rmtree(source / "doc")
    write_transcript(source, text="\ufeffplain: Hold the line.\n")
    assert run_script(source, tmp_path / "set", "--language", "en").returncode == 0
    assert texts_by_id(tmp_path / "set") == {"plain": "Hold the line."}


def test_damaged_transcript_is_refused(tmp_path):
    source = make_source(tmp_path / "source")
    path = source / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz"
    whole = path.read_bytes()
    for damaged in (b"", b"not gzip", whole[:-20], gzip.compress(b"plain: caf\xe9")):
        path.write_bytes(damaged)
        assert f"{path} is damaged" in refusal(source, tmp_path / "set", "--language", "en")


def test_damaged_audio_is_refused(tmp_path):
    source = make_source(tmp_path / "source")
    audio = source / "asterisk" / "sounds" / "en_US_f_Nobody" / "plain.wav"
    for damaged in (b"", b"no sound", audio.read_bytes()[:20]):
        audio.write_bytes(damaged)
        assert f"{audio} is not a WAV file" in refusal(source, tmp_path / "set", "--language", "en")


@pytest.mark.parametrize("limits", [("2", "1"), ("1", "1"), ("0", "5"), ("-1", "5"), ("nan", "5"), ("1", "nan")])
def test_limits_that_leave_no_room_are_refused(tmp_path, limits):
    options = (f"--min-seconds={limits[0]}", f"--max-seconds={limits[1]}")
    assert "leave no room" in refusal(make_source(tmp_path / "source"), tmp_path / "set", "--language", "en", *options)


def test_limits_that_no_clip_meets_are_refused(tmp_path):
    options = ("--min-seconds", "3", "--max-seconds", "4")
    sentence = refusal(make_source(tmp_path / "source"), tmp_path / "set", "--language", "en", *options)
    assert "widen the limits" in sentence


def test_data_that_is_already_there_is_kept(tmp_path):
    source = make_source(tmp_path / "source")
    output = tmp_path / "set"
    output.mkdir()
    (output / "metadata.csv").write_text("mine|Mine.\n")
    assert "already holds data" in refusal(source, output, "--language", "en")
    assert (output / "metadata.csv").read_text() == "mine|Mine.\n"


def test_other_languages_are_refused(tmp_path):
    outcome = run_script(tmp_path, tmp_path / "set", "--language", "de")
    assert outcome.returncode == 2
    assert "invalid choice: 'de'" in outcome.stderr


def installed(language, kind):
    transcript = DEBIAN / "doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    audio = next((DEBIAN / "asterisk" / "sounds").glob(f"{language}_*_*_*/*.{kind}"), None)
    return transcript.is_file() and audio is not None and (kind == "wav" or FFMPEG is not None)


@pytest.mark.parametrize("kind", ["g722", "wav"])
@pytest.mark.parametrize(("language", "letter"), [("en", "e"), ("ru", "ж"), ("es", "a"), ("fr", "é"), ("it", "è")])
def test_real_prompts(tmp_path, language, letter, kind):
    if not installed(language, kind):
        pytest.skip(f"Debian's asterisk-core-sounds-{language} and -{kind} (g722: ffmpeg too) are not installed")
    # A narrow window keeps the test short: decoding all of a language takes ffmpeg ten seconds.
    options = ("--language", language, "--format", kind, "--min-seconds", "2", "--max-seconds", "2.6")
    outcome = run_script(DEBIAN, tmp_path / "set", *options)
    assert outcome.returncode == 0, outcome.stderr
    samples = load_ljspeech(tmp_path / "set", language)
    assert len(samples) >= 15
    assert letter in "".join(sample["text"] for sample in samples)
    for sample in samples:
        info = soundfile.info(sample["audio_file"])
        assert info.samplerate == (16000 if kind == "g722" else 8000)
        assert 1.9 <= info.duration <= 2.7
        assert 1 < len(sample["text"]) / info.duration < 35, sample["text"]
        assert not set('[]()<>*#|"') & set(sample["text"])
