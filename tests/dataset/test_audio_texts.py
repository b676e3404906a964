"""Texts that are not what is spoken: on a made-up language, and on Asterisk's prompts."""

import random
from pathlib import Path

import pytest
from waves import np, speak, texts

from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.align import ANY, letters
from xtts_gatekeeper.dataset.clip import Audio, Clip
from xtts_gatekeeper.dataset.measure import measure
from xtts_gatekeeper.dataset.scan import scan
from xtts_gatekeeper.dataset.store import Store
from xtts_gatekeeper.dataset.texts import mismatches

ASTERISK = Path("/usr/share/asterisk/sounds/es_MX_f_Allison")


def faults(clips, frames):
    return {fault.clip: fault for fault in mismatches(lambda: iter(clips), frames)}


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """(text, measured) of 120 clips of a language that is spelled as it sounds."""
    import soundfile

    file = tmp_path_factory.mktemp("language") / "clip.wav"
    found = []
    for text in texts(120):
        soundfile.write(file, speak(text), 16000)
        found.append((text, measure(str(file))))
    return found


def told(language, changed=None, count=None):
    """{number: code} of the clips, some of which have another text."""
    names = {n: (changed or {}).get(n, text) for n, (text, _) in enumerate(language[:count])}
    clips = [(Clip(str(n), f"/{n}", names[n], "it"), one.audio) for n, (_, one) in enumerate(language[:count])]
    frames = {one.audio.digest: one.frames for _, one in language}
    found = faults(clips, lambda digests: {digest: frames[digest] for digest in digests})
    assert all(fault.severity == "soft" for fault in found.values())
    return {int(clip): fault.code for clip, fault in found.items()}


def test_right_texts_are_not_accused(language):
    assert len(told(language)) <= 2


def test_texts_of_like_length_that_were_swapped_are_found(language):
    order = sorted(range(60), key=lambda n: len(language[n][0]))
    pairs = [(order[at], order[at + 1]) for at in range(0, 12, 2)]
    changed = {n: language[m][0] for a, b in pairs for n, m in ((a, b), (b, a))}
    found = told(language, changed)
    assert len(found.keys() & changed.keys()) >= 0.9 * len(changed)
    assert len(found.keys() - changed.keys()) <= 2


def test_clip_that_ends_before_its_text_is_cut_off(language):
    changed = {n: f"{language[n][0]} {language[n + 60][0]}" for n in range(6)}
    found = told(language, changed)
    assert [found.get(n) for n in changed] == ["cut_off"] * 6


def test_few_clips_are_not_learned_from(language):
    changed = {0: language[50][0]}
    assert told(language, changed, count=40) == {}


def test_language_in_signs_is_left_alone(language):
    signs = {
        n: "".join(chr(0x4E00 + 97 * n % 3000 + i) for i in range(len(text) // 3))
        for n, (text, _) in enumerate(language)
    }
    assert told(language, signs) == {}


def test_silence_and_empty_texts_are_left_out(language):
    clips = [
        (Clip("a", "/a", "", "it"), language[0][1].audio),
        (Clip("b", "/b", "mano", "it"), Audio("d", seconds=1.0)),
    ]
    assert faults(clips, lambda _: {}) == {}


def test_what_has_no_sound_of_its_own_stands_for_any():
    assert letters("Press 2, now!", "en") == f"press {ANY * 4} now"
    assert letters("USB port", "en") == f"{ANY * 6} port"
    assert letters("N B S", "en") == f"{ANY * 2} {ANY * 2} {ANY * 2}"
    assert letters("y ahora", "es") == "y ahora"
    assert letters("한글", "ko") == letters("한글", "ko").lower() != "한글"
    assert letters("...", "en") == ""


@pytest.mark.skipif(not next(ASTERISK.glob("*.wav"), None), reason="asterisk-core-sounds-es-wav is not installed")
def test_wrong_and_cut_texts_of_real_speech(python, tmp_path):
    outcome = python("recipes/datasets/asterisk.py", "--language", "es", "--format", "wav", "--output", tmp_path / "es")
    if outcome.returncode:
        pytest.skip(outcome.stderr)
    samples = load_ljspeech(tmp_path / "es", "es")
    rng = random.Random(0)
    long = [n for n, sample in enumerate(samples) if len(sample["text"]) > 25]
    wrong = rng.sample(long, 20)
    spoken = {n: sample["text"] for n, sample in enumerate(samples)}
    spoken |= {n: samples[m]["text"] for n, m in zip(wrong, wrong[1:] + wrong[:1], strict=True)}
    with Store.open(tmp_path / "cache.sqlite") as store:
        paths = [sample["audio_file"] for sample in samples]
        scan(store, paths, workers=2)
        known = store.audio(paths)
        found = faults(
            [(Clip(str(n), path, spoken[n], "es"), known[path]) for n, path in enumerate(paths)], store.frames
        )
    accused = {int(clip) for clip in found}
    assert len(accused & set(wrong)) >= 18
    assert len(accused - set(wrong)) <= 0.03 * len(samples)
    assert np.isfinite([fault.value for fault in found.values()]).all()
