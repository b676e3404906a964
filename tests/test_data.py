import os
from pathlib import Path

import pytest

from xtts_gatekeeper.data import LANGUAGES, load_ljspeech, write_metadata
from xtts_gatekeeper.errors import UserError

soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the train extra")


def write_clip(path, number, seconds=0.01):
    """A clip whose bytes depend on `number`: two levels in turn, each as long as the number says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = int(22050 * seconds)
    samples = b"".join(((i // (number + 1)) % 2 * 2000 + number).to_bytes(2, "little") for i in range(frames))
    with soundfile.SoundFile(str(path), "w", 22050, 1, "PCM_16") as file:
        file.buffer_write(samples, "int16")


def make_set(folder, lines=("a|One.|One.", "b|Two.|Two.", "c|Three.|Three."), clips=("a", "b", "c")):
    for number, clip in enumerate(clips):
        write_clip(folder / "wavs" / f"{clip}.wav", number)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    names = [f"clip{number}" for number in range(30)]
    make_set(folder, [f"{name}|This is {name}." for name in names], names)
    return load_ljspeech(folder)


def refusal(folder, language="en"):
    with pytest.raises(UserError) as caught:
        load_ljspeech(folder, language)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_samples_are_those_of_the_stock_formatter(tmp_path):
    datasets = pytest.importorskip("TTS.tts.datasets", reason="coqui-tts is not installed")
    formatters = pytest.importorskip("TTS.tts.datasets.formatters")
    make_set(tmp_path, ["a|1 dog.|One dog.", "sub/b.x|Two.|Two."], ["a", "sub/b.x"])
    stock = datasets.add_extra_keys(formatters.ljspeech(str(tmp_path), "metadata.csv"), "ru", "ljspeech")
    for sample in stock:
        sample["text"] = sample["text"].strip()
    assert load_ljspeech(str(tmp_path), "ru") == stock


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a|Two columns.", "Two columns."),
        ("a|raw 2|normalised two", "normalised two"),
        ("a|only raw|", "only raw"),
        ("a||only normalised", "only normalised"),
        (" a | padded ", "padded"),
        ("a|a rare\u2028break\x0bstays", "a rare\u2028break\x0bstays"),
        ("a|Ça va? Да: “так”", "Ça va? Да: “так”"),
    ],
)
def test_the_last_text_that_is_not_empty_is_spoken(tmp_path, line, text):
    assert [sample["text"] for sample in load_ljspeech(make_set(tmp_path, [line]))] == [text]


def test_bom_blank_lines_and_windows_line_ends_are_read(tmp_path):
    make_set(tmp_path)
    (tmp_path / "metadata.csv").write_bytes("\ufeffa|One.\r\n\r\n  \r\nb|Two.\r\n".encode())
    assert [sample["text"] for sample in load_ljspeech(tmp_path)] == ["One.", "Two."]


def test_order_of_the_file_is_kept(tmp_path):
    samples = load_ljspeech(make_set(tmp_path, ["c|Three.", "a|One.", "b|Two."]))
    assert [Path(sample["audio_file"]).stem for sample in samples] == ["c", "a", "b"]


def test_written_metadata_is_read_back(tmp_path):
    make_set(tmp_path)
    write_metadata(tmp_path, {"b": "Zwei…", "a": "Eins."})
    assert [sample["text"] for sample in load_ljspeech(tmp_path, "de")] == ["Zwei…", "Eins."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.csv", "wavs"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("just words", "1 column(s)"),
        ("b|one|two|three", "4 column(s)"),
        ("|Text.", "id before"),
        ("b|", "has no text"),
        ("b| | ", "has no text"),
        ("../b|Text.", "plain path"),
        ("x/../../b|Text.", "plain path"),
        ("..\\b|Text.", "plain path"),
        ("/etc/b|Text.", "plain path"),
        ("./b|Text.", "plain path"),
        ("a|Again.", "already used"),
        ("nowhere|Text.", "nowhere.wav does not exist"),
    ],
)
def test_broken_line_is_named_by_file_and_number(tmp_path, line, complaint):
    sentence = refusal(make_set(tmp_path, ["a|One.", "", line, "c|Three."]))
    assert sentence.startswith(f"{tmp_path / 'metadata.csv'}:3: ")
    assert complaint in sentence


def test_folder_that_is_none_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert f"{file} is a file" in refusal(file)
    assert "has no metadata.csv" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf"])
def test_metadata_without_clips_is_refused(tmp_path, content):
    (tmp_path / "metadata.csv").write_bytes(content)
    assert "lists no clip" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "number"), [("a|One.\nb|caf\xe9".encode("latin-1"), 2), ("a|One.\n".encode("utf-16"), 1)]
)
def test_other_encodings_are_refused_with_the_line(tmp_path, content, number):
    make_set(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(content)
    assert f"metadata.csv:{number} is not UTF-8" in refusal(tmp_path)


def test_audio_that_cannot_be_read_is_named(tmp_path):
    make_set(tmp_path)
    audio = tmp_path / "wavs" / "b.wav"
    whole = audio.read_bytes()
    for damaged in (b"", b"I am text, not sound.\n" * 20, whole[:20], whole[:44], whole[: len(whole) // 2], whole[:-2]):
        audio.write_bytes(damaged)
        sentence = refusal(tmp_path)
        assert f"metadata.csv:2: {audio}" in sentence, damaged[:30]


def test_clip_without_a_single_sample_is_refused(tmp_path):
    make_set(tmp_path)
    write_clip(tmp_path / "wavs" / "b.wav", 0, seconds=0)
    assert f"metadata.csv:2: {tmp_path / 'wavs' / 'b.wav'} is empty" in refusal(tmp_path)


def test_folder_in_place_of_a_clip_is_refused(tmp_path):
    make_set(tmp_path)
    (tmp_path / "wavs" / "b.wav").unlink()
    (tmp_path / "wavs" / "b.wav").mkdir()
    assert "b.wav does not exist" in refusal(tmp_path)


def test_header_of_unknown_length_is_accepted(tmp_path):
    make_set(tmp_path)
    audio = tmp_path / "wavs" / "b.wav"
    whole = audio.read_bytes()
    for length in (0xFFFF_FFFF, 0x7FFF_F024):
        mark = length.to_bytes(4, "little")
        audio.write_bytes(whole[:4] + mark + whole[8:40] + mark + whole[44:])
        assert len(load_ljspeech(tmp_path)) == 3


def test_flac_under_the_name_wav_is_accepted(tmp_path):
    make_set(tmp_path)
    audio = tmp_path / "wavs" / "b.wav"
    samples, rate = soundfile.read(audio, dtype="int16")
    soundfile.write(audio, samples, rate, format="FLAC")
    assert len(load_ljspeech(tmp_path)) == 3


@pytest.mark.parametrize(
    ("language", "nearest"),
    [
        ("EN", "en"),
        ("english", "en"),
        ("en-US", "en"),
        ("zh", "zh-cn"),
        ("zh-TW", "zh-cn"),
        ("pt-br", "pt"),
        ("", "en"),
    ],
)
def test_nearest_language_is_proposed(tmp_path, language, nearest):
    assert f"the nearest is {nearest!r}" in refusal(make_set(tmp_path), language)


def test_languages_are_those_of_xtts():
    config = pytest.importorskip("TTS.tts.configs.xtts_config", reason="coqui-tts is not installed")
    assert sorted(config.XttsConfig().languages) == sorted(LANGUAGES)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_metadata_is_refused(tmp_path):
    (make_set(tmp_path) / "metadata.csv").chmod(0)
    assert "check its permissions" in refusal(tmp_path)
