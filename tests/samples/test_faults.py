"""From numbers to words: each fault by itself, and nothing where a sample is like the speaker's own clips."""

import pytest

from xtts_gatekeeper.samples.calibration import GENERAL, Calibration, Reference, Spread, calibration_of
from xtts_gatekeeper.samples.faults import KINDS, find_faults

#: A speaker whose clips scatter as those of speech in general do.
SPEAKER = Calibration(
    spread={
        **GENERAL,
        "pitch_semitones": Spread(median=22.0, mad=0.7, count=20),
        "duration_ratio": Spread(median=0.0, mad=0.07, count=20),
    },
    speaker=(1.0,),
    clips=("a.wav",),
)
GOOD = {name: spread.median for name, spread in SPEAKER.spread.items()} | {"text_characters": 40.0}

CASES = {
    "cut off": ({"lost_end_characters": 9, "duration_ratio": -0.4}, "early_stop"),
    "nothing said": ({"lost_end_characters": 40, "replaced_end_characters": 1}, "early_stop"),
    "much too short": ({"duration_ratio": -0.6}, "early_stop"),
    "breaks off in a vowel": ({"last_db": -2.0, "duration_ratio": -0.05}, "early_stop"),
    "goes on": ({"extra_end_characters": 12, "duration_ratio": 0.4}, "late_stop"),
    "babble that nobody can write down": ({"speech_behind_seconds": 1.5, "duration_ratio": 0.3}, "late_stop"),
    "much too long": ({"duration_ratio": 0.7}, "late_stop"),
    "silence behind": ({"trailing_silence_seconds": 1.4, "tail_db": -70, "tail_seconds": 1.2}, "trailing_silence"),
    "hiss behind": ({"trailing_silence_seconds": 0.9, "tail_db": -22, "tail_seconds": 0.8}, "trailing_noise"),
    "a word left out": (
        {"lost_characters": 8, "replaced_characters": 0, "lost_pace": 0.1, "duration_ratio": -0.2},
        "skipped",
    ),
    "a word as another": (
        {"lost_characters": 8, "replaced_characters": 7, "lost_pace": 0.9, "duration_ratio": 0.0},
        "mispronounced",
    ),
    "the last word as another": (
        {"lost_end_characters": 8, "replaced_end_characters": 7, "duration_ratio": 0.0},
        "mispronounced",
    ),
    "a piece twice": ({"repetition": 0.99, "repetition_seconds": 0.4}, "repeated"),
    "a word twice": ({"repeated_characters": 9, "duration_ratio": 0.15}, "repeated"),
    "hiss": ({"dnsmos_background": 2.0, "noise_db": -15}, "noisy"),
    "hum": ({"dnsmos_background": 3.0, "hum_db": 10.0}, "noisy"),
    "a tube": ({"echo": 9.0}, "distorted"),
    "dropouts": ({"holes": 5}, "distorted"),
    "a pause in the middle": ({"inner_silence_seconds": 1.8}, "distorted"),
    "artificial by two networks": ({"naturalness": 2.4, "dnsmos_signal": 3.0}, "distorted"),
    "clipped": ({"clipped_runs": 80, "clipped_share": 0.02}, "clipped"),
    "another speaker": ({"likeness": 0.15}, "wrong_voice"),
    "too high": ({"pitch_semitones": 27.0, "likeness": 0.58}, "pitch"),
    "too low": ({"pitch_semitones": 12.0}, "pitch"),
    "monotone": ({"pitch_spread_semitones": 0.2}, "pitch"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_named_by_itself(case):
    values, kind = CASES[case]
    faults = find_faults({**GOOD, **values}, SPEAKER)
    assert [fault.kind for fault in faults] == [kind]
    assert faults[0].severity >= 1
    assert faults[0].message
    assert set(faults[0].evidence) <= {*GOOD, "limit"}


def test_the_cases_cover_every_kind():
    assert {kind for _, kind in CASES.values()} == set(KINDS)


@pytest.mark.parametrize("calibration", [SPEAKER, Calibration()])
def test_a_sample_like_the_real_clips_has_none(calibration):
    assert find_faults(GOOD, calibration) == ()


def test_a_sample_of_which_nothing_could_be_measured_has_none():
    assert find_faults({}, SPEAKER) == ()


def test_a_generation_that_was_cut_stops_late_whatever_else_is_measured():
    assert [fault.kind for fault in find_faults({}, SPEAKER, cut=True)] == ["late_stop"]


def test_a_worse_fault_is_more_severe_and_comes_first():
    near, far = (find_faults({**GOOD, "likeness": likeness}, SPEAKER)[0] for likeness in (0.4, 0.0))
    assert far.severity > near.severity
    both = find_faults({**GOOD, "likeness": -0.4, "clipped_runs": 30, "clipped_share": 0.001}, SPEAKER)
    assert [fault.kind for fault in both] == ["wrong_voice", "clipped"]


def test_a_text_that_says_the_same_twice_may_sound_so():
    values = {**GOOD, "repetition": 0.99, "repetition_seconds": 0.8, "text_repetition": 15}
    assert find_faults(values, SPEAKER) == ()
    assert [f.kind for f in find_faults({**values, "repeated_characters": 9}, SPEAKER)] == ["repeated"]


def test_pitch_is_judged_only_by_clips_of_the_speaker():
    assert find_faults({**GOOD, "pitch_semitones": 30.0}, Calibration()) == ()


def reference(text="a sentence of some words", language="en"):
    return Reference(audio_file="clip.wav", text=text, language=language)


def clips(count, **values):
    return [(reference(), {**GOOD, "speech_seconds": 2.0, **values}) for _ in range(count)]


def test_a_speaker_with_a_rough_voice_is_the_scale_for_its_samples():
    rough = {"naturalness": 2.6, "dnsmos_signal": 3.0, "dnsmos_background": 2.8}
    assert find_faults({**GOOD, **rough}, SPEAKER) != ()
    assert find_faults({**GOOD, **rough}, calibration_of(clips(12, **rough), None)) == ()


def test_clips_that_happen_to_be_alike_do_not_make_an_outlier_of_everything():
    alike = calibration_of(clips(12), None)
    assert all(alike.spread[name].mad >= GENERAL[name].mad / 2 for name in GENERAL)
    few = calibration_of(clips(3), None)
    assert all(few.spread[name].mad >= GENERAL[name].mad for name in GENERAL)


def test_the_length_of_a_text_is_learnt_from_the_clips():
    texts = ["word " * number for number in range(2, 22)]
    measured = [(reference(text), {"speech_seconds": 0.4 + 0.1 * len(text.replace(" ", ""))}) for text in texts]
    measured[5] = (measured[5][0], {"speech_seconds": 30.0})  # a wrong transcript must not bend it
    scale = calibration_of(measured, None)
    ratio = scale.duration_ratio("word " * 9, "en", {"speech_seconds": 0.4 + 3.6})
    assert ratio == pytest.approx(0.0, abs=0.03)
    assert scale.duration_ratio("word " * 9, "en", {"speech_seconds": 2.0}) == pytest.approx(-0.69, abs=0.05)
    assert scale.duration_ratio("", "en", {"speech_seconds": 2.0}) is None


def test_a_scale_is_written_and_read_again(tmp_path):
    from xtts_gatekeeper.samples.calibration import read_calibration

    scale = calibration_of(clips(9), None)
    scale.write(tmp_path / "calibration.json")
    again = read_calibration(tmp_path / "calibration.json")
    assert again == scale
    assert again.fingerprint == scale.fingerprint != Calibration().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_a_broken_scale_is_refused_with_what_to_do(tmp_path):
    from xtts_gatekeeper.errors import UserError
    from xtts_gatekeeper.samples.calibration import read_calibration

    (tmp_path / "calibration.json").write_text('{"values": []}')
    with pytest.raises(UserError, match=r"cannot be read .*remove it"):
        read_calibration(tmp_path / "calibration.json")
