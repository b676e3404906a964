import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.data import LANGUAGES, clip_id, fingerprint, load_ljspeech, stable_split, write_metadata
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


def test_split_keeps_every_clip_once_and_in_order(clips):
    train, held_out = stable_split(clips, 0.3)
    assert [sample for sample in clips if sample in train] == train
    assert [sample for sample in clips if sample in held_out] == held_out
    assert len(train) + len(held_out) == len(clips)
    assert train
    assert held_out


@settings(deadline=None)
@given(st.data())
def test_adding_or_removing_clips_never_moves_another(clips, data):
    kept = data.draw(st.lists(st.sampled_from(clips), min_size=2, unique_by=lambda sample: sample["audio_file"]))
    fraction = data.draw(st.floats(0.2, 0.8))
    _, all_held_out = stable_split(clips, fraction)
    held_out_names = {sample["audio_file"] for sample in all_held_out}
    assume(0 < sum(sample["audio_file"] in held_out_names for sample in kept) < len(kept))
    train, held_out = stable_split(kept, fraction)
    assert {sample["audio_file"] for sample in held_out} == held_out_names & {sample["audio_file"] for sample in kept}
    assert held_out_names.isdisjoint(sample["audio_file"] for sample in train)


@settings(deadline=None)
@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_larger_fraction_only_adds_to_the_evaluation_set(clips, one, other):
    _, fewer = stable_split(clips, min(one, other))
    _, more = stable_split(clips, max(one, other))
    assert all(sample in more for sample in fewer)


def test_split_depends_on_text_and_audio_not_on_the_path(clips, tmp_path):
    shutil.copytree(clips[0]["root_path"], tmp_path / "elsewhere")
    moved = load_ljspeech(tmp_path / "elsewhere")
    assert [[s["text"] for s in side] for side in stable_split(moved)] == [
        [s["text"] for s in side] for side in stable_split(clips)
    ]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_fraction_outside_zero_and_one_is_refused(clips, fraction):
    with pytest.raises(UserError, match=r"eval_fraction is .* between 0 and 1"):
        stable_split(clips, fraction)


def test_split_of_fewer_than_two_clips_is_refused(clips):
    for samples in (clips[:1], []):
        with pytest.raises(UserError, match=rf"^{len(samples)} clip"):
            stable_split(samples)


def test_empty_side_of_a_split_is_refused_with_the_remedy(clips):
    with pytest.raises(UserError, match=r"none of the 30 clips .*eval_fraction=1e-06.*add clips or use a larger"):
        stable_split(clips, 1e-6)
    with pytest.raises(UserError, match=r"all 30 clips .*eval_fraction=0\.999999.*add clips or use a smaller"):
        stable_split(clips, 0.999999)


@settings(deadline=None)
@given(st.data())
def test_fingerprint_is_that_of_the_set(clips, data):
    chosen = data.draw(st.lists(st.sampled_from(clips), min_size=1, max_size=6))
    shuffled = data.draw(st.permutations(chosen))
    assert fingerprint(shuffled) == fingerprint(chosen)
    assert fingerprint([*chosen, chosen[0]]) == fingerprint(chosen)
    without = [sample for sample in chosen if sample != chosen[0]]
    assert fingerprint(without) != fingerprint(chosen)


def test_fingerprint_is_the_same_in_another_folder_and_ignores_other_keys(clips, tmp_path):
    shutil.copytree(clips[0]["root_path"], tmp_path / "elsewhere")
    moved = [{**sample, "speaker_name": "other"} for sample in load_ljspeech(tmp_path / "elsewhere")]
    assert fingerprint(moved) == fingerprint(clips)
    assert len(fingerprint(clips)) == 16
    assert int(fingerprint(clips), 16) >= 0


def test_text_language_and_each_byte_of_audio_change_the_id(clips, tmp_path):
    sample = clips[0]
    audio = bytearray(Path(sample["audio_file"]).read_bytes())
    audio[-1] ^= 1
    (tmp_path / "changed.wav").write_bytes(audio)
    variants = [
        sample,
        {**sample, "text": sample["text"] + "!"},
        {**sample, "language": "ru"},
        {**sample, "audio_file": str(tmp_path / "changed.wav")},
        {**sample, "audio_file": str(tmp_path / "missing.wav")},
    ]
    assert len({clip_id(variant) for variant in variants}) == len(variants)


def test_missing_audio_counts_as_missing_wherever_it_was(clips):
    gone = [{**sample, "audio_file": f"/nowhere/{number}.wav"} for number, sample in enumerate(clips)]
    elsewhere = [{**sample, "audio_file": "/also/nowhere.wav"} for sample in clips]
    assert fingerprint(gone) == fingerprint(elsewhere) != fingerprint(clips)


def test_audio_of_many_blocks_is_read_to_its_end(clips, tmp_path):
    sample = {**clips[0], "audio_file": str(tmp_path / "long.raw")}
    ids = set()
    for end in (b"a", b"b"):
        (tmp_path / "long.raw").write_bytes(bytes(3 * (1 << 20)) + end)
        ids.add(clip_id(sample))
    assert len(ids) == 2


def test_fingerprint_survives_a_journey_through_json(clips):
    assert fingerprint(json.loads(json.dumps(clips))) == fingerprint(clips)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_metadata_is_refused(tmp_path):
    (make_set(tmp_path) / "metadata.csv").chmod(0)
    assert "check its permissions" in refusal(tmp_path)
