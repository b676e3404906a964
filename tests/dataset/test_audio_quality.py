"""What is told of clips by their numbers: against the set, and not where too little is known."""

from dataclasses import replace

import pytest

from xtts_gatekeeper.dataset.clip import Audio, Clip
from xtts_gatekeeper.dataset.quality import ENOUGH, Sample, judge

USUAL = Audio(
    digest="d",
    seconds=3.0,
    sample_rate=22050,
    channels=1,
    peak=0.7,
    clipped_share=0.0,
    dc=0.0,
    level_dbfs=-20.0,
    noise_dbfs=-70.0,
    snr_db=50.0,
    active_seconds=2.6,
    silence_share=0.13,
    leading_seconds=0.1,
    trailing_seconds=0.2,
    pause_seconds=0.1,
    head_seconds=0.0,
    tail_seconds=0.0,
    bandwidth_hz=10000.0,
    pitch_hz=180.0,
    spectrum=bytes(28),
)


def told(audio, others=USUAL, count=40, text="Forty letters, more or less, are in this."):
    """{code: severity} of one clip among so many others."""
    clips = [
        (Clip(str(n), f"/{n}.wav", "Forty letters, more or less, are in this.", "en", "a"), others)
        for n in range(count)
    ]
    clips.append((Clip("odd", "/odd.wav", text, "en", "a"), audio))
    found = list(judge(lambda: iter(clips)))
    assert {fault.clip for fault in found} <= {"odd"}
    assert all(fault.message and not fault.message.endswith(".") for fault in found)
    return {fault.code: fault.severity for fault in found}


CASES = {
    "clipped": ({"clipped_share": 0.01}, "hard"),
    "dc": ({"dc": -0.02}, "soft"),
    "quiet": ({"level_dbfs": -40.0}, "soft"),
    "loud": ({"level_dbfs": -8.0}, "soft"),
    "leading_silence": ({"leading_seconds": 2.0}, "soft"),
    "trailing_silence": ({"trailing_seconds": 2.0}, "soft"),
    "long_pause": ({"pause_seconds": 2.0}, "soft"),
    "noise_tail": ({"tail_seconds": 1.0, "tail_db": -20.0}, "soft"),
    "noise_head": ({"head_seconds": 1.0, "head_db": -20.0}, "soft"),
    "noisy": ({"snr_db": 5.0}, "soft"),
    "channels": ({"channels": 2}, "soft"),
    "sample_rate": ({"sample_rate": 24000}, "soft"),
    "bandwidth": ({"bandwidth_hz": 3900.0}, "soft"),
    "truncated": ({"error": "the file ends early"}, "hard"),
    "not_finite": ({"error": "the file holds NaN", "peak": None}, "hard"),
    "silent": ({"active_seconds": 0.0}, "hard"),
}


@pytest.mark.parametrize("code", CASES)
def test_each_fault_is_told_alone(code):
    changes, severity = CASES[code]
    assert told(replace(USUAL, **changes)) == {code: severity}


def test_usual_clip_has_no_fault():
    assert told(USUAL) == {}


@pytest.mark.parametrize(
    "code", ["quiet", "noise_tail", "bandwidth", "sample_rate", "channels", "leading_silence", "noisy"]
)
def test_what_the_whole_set_does_is_no_fault_of_a_clip(code):
    changes, _ = CASES[code]
    assert told(replace(USUAL, **changes), others=replace(USUAL, **changes)) == {}


@pytest.mark.parametrize("code", ["loud", "noisy", "channels", "sample_rate", "bandwidth"])
def test_few_clips_accuse_nobody(code):
    changes, _ = CASES[code]
    assert told(replace(USUAL, **changes), count=ENOUGH // 2) == {}


@pytest.mark.parametrize("ratio", [0.5, 0.727, 1.378, 2.0])
@pytest.mark.parametrize("header", [True, False])
def test_wrong_rate_by_voice_pace_and_mouth(ratio, header):
    def spectrum(shift):
        return bytes(
            (20 if abs(band - 8 - shift) < 2 or abs(band - 17 - shift) < 2 else -5) % 256 for band in range(28)
        )

    from math import log2

    usual = replace(USUAL, spectrum=spectrum(0))
    seconds = usual.active_seconds / ratio
    odd = replace(
        usual,
        spectrum=spectrum(6 * log2(ratio)),
        pitch_hz=usual.pitch_hz * ratio,
        active_seconds=seconds,
        sample_rate=round(usual.sample_rate * ratio) if header else usual.sample_rate,
    )
    assert told(odd, usual)["wrong_rate"] in (("hard",) if header else ("hard", "soft"))
    # Another rate with the voice as it should be is another rate, and no more.
    if header:
        assert told(replace(usual, sample_rate=odd.sample_rate, bandwidth_hz=8000.0), usual) == {"sample_rate": "soft"}


def test_character_of_one_text_alone_is_a_note():
    assert told(USUAL, count=120, text="Forty letters, more or less, are in thiß.") == {"rare_character": "note"}
    assert told(USUAL, count=50, text="Forty letters, more or less, are in thiß.") == {}


def test_unreadable_clips_are_left_to_others():
    assert told(Audio(digest="missing", error="it is not there")) == {}


def test_sample_is_bounded_and_fair():
    sample = Sample(100)
    for value in range(100_000):
        sample.add(float(value))
    assert len(sample.values) == 100
    middle, spread = sample.usual(0.0)
    assert middle == pytest.approx(50_000, rel=0.25)
    assert spread > 10_000
