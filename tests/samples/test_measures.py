"""Every measure on real speech, and planted faults found in it; slow parts share one set of models."""

import pytest
from samples.real_speech import models_or_skip, prompts_or_skip

from xtts_gatekeeper.samples.audio import sound_of
from xtts_gatekeeper.samples.calibration import Reference
from xtts_gatekeeper.samples.measures import default_measures
from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.measuring import Ears, measure

np = pytest.importorskip("numpy", reason="numpy comes with the measures extra")
soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the measures extra")

LANGUAGE = "en"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    found = prompts_or_skip(tmp_path_factory.mktemp("prompts") / LANGUAGE, LANGUAGE)
    return [(soundfile.read(path, dtype="float32")[0], path, text) for path, text in found]


@pytest.fixture(scope="module")
def ears(clips):
    listening = Ears(Models(models_or_skip()))
    references = [Reference(audio_file=str(path), text=text, language=LANGUAGE) for _, path, text in clips[1::9][:10]]
    listening.calibrate(references)
    return listening


def listen(ears, audio, text, language=LANGUAGE, rate=16000):
    return ears.listen_to(sound_of(np.atleast_2d(audio).astype(np.float32), rate), "clip.wav", text, language)


@pytest.mark.parametrize("number", range(10))
def test_every_measure_makes_just_the_values_that_it_declares(number, ears, clips):
    audio, _, text = clips[0]
    one = default_measures(speaker=ears.calibration.speaker_vector)[number]
    found = one(Speech(sound_of(audio[None], 16000), ears.models, text, LANGUAGE))
    assert sorted(found) == sorted(value.name for value in one.values)
    assert all(np.isfinite(list(found.values())))
    assert one.name and one.needs and 0 < one.cost < 0.6
    assert all(value.better in ("higher", "lower", "fit") for value in one.values)


def test_a_real_clip_has_no_fault_and_is_heard(ears, clips):
    audio, _, text = clips[0]
    found = listen(ears, audio, text)
    assert found.faults == () and found.missing == {}
    assert found.values["cer"] < 0.3 and abs(found.values["duration_ratio"]) < 0.4


WORDS = {}


def words_of(ears, number, clips):
    """Where the words of a clip are."""
    if number not in WORDS:
        audio, _, text = clips[number]
        heard = Speech(sound_of(audio[None], 16000), ears.models, text, LANGUAGE).heard
        WORDS[number] = [(word.begin, word.end) for word in heard.words if any(map(str.isalnum, word.text))]
    return WORDS[number]


def plants():
    try:
        import damage
    except ImportError:
        return []
    return list(damage.PLANTS)


@pytest.mark.parametrize("plant", plants(), ids=lambda plant: plant.__name__)
def test_each_planted_fault_is_found_in_one_of_two_real_clips(plant, ears, clips):
    """The shares are counted by benchmarks/measures.py; here nothing may go deaf."""
    import damage

    def named(number):
        audio, _, text = clips[number]
        damaged = plant(audio, words_of(ears, number, clips), clips[number + 1][0], np.random.default_rng(number))
        found = {fault.kind for fault in listen(ears, np.clip(damaged, -1, 1), text).faults}
        return bool(found & set(damage.PLANTS[plant]))

    assert named(0) or named(3)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2), (192000, 1)])
def test_the_rate_and_the_channels_of_a_file_make_no_fault(rate, channels, ears, clips):
    import soxr

    audio, _, text = clips[0]
    again = soxr.resample(audio, 16000, rate)
    found = listen(ears, np.stack([again] * channels), text, rate=rate)
    assert found.missing == {}
    assert {fault.kind for fault in found.faults} <= ({"distorted"} if rate == 8000 else set())


def test_a_language_that_the_recogniser_does_not_know_costs_only_the_words(ears, clips):
    audio, _, text = clips[0]
    found = listen(ears, audio, text, language="xx")
    assert found.missing == {"words": "the recogniser does not know the language 'xx'"}
    assert found.heard is None and found.values["dnsmos"] > 2


def test_without_a_text_the_sound_is_measured_all_the_same(ears, clips):
    found = listen(ears, clips[0][0], "")
    assert found.missing == {"words": "its text is not told"}
    assert found.faults == ()


@pytest.mark.parametrize("kind", ["noise", "tone", "clicks"])
def test_what_is_no_speech_is_measured_without_an_error(kind, ears):
    time = np.arange(32000) / 16000
    audio = {
        "noise": 0.1 * np.random.default_rng(1).standard_normal(32000),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "clicks": (np.arange(32000) % 4000 == 0) * 0.9,
    }[kind]
    found = listen(ears, audio, "there is nothing said in it at all")
    assert found.faults
    assert all(np.isfinite(list(found.values.values())))


def test_a_measure_that_breaks_costs_the_others_nothing(clips):
    class Broken:
        name, values, needs, cost = "broken", (), "nothing", 0.1

        def __call__(self, speech):
            raise ValueError("the library's own trouble\nin two lines")

    class Refusing(Broken):
        name = "refusing"

        def __call__(self, speech):
            raise Unmeasured("not this one")

    class Infinite(Broken):
        name = "infinite"

        def __call__(self, speech):
            return {"good": 1.0, "bad": float("nan")}

    speech = Speech(sound_of(clips[0][0][None], 16000), Models())
    values, missing = measure(speech, [Broken(), Refusing(), Infinite()])
    assert values == {"good": 1.0}
    assert missing == {
        "broken": "ValueError: the library's own trouble",
        "refusing": "not this one",
        "infinite": "the result is not finite",
    }
