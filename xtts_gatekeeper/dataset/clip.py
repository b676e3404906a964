"""The words of the audit: a clip of the metadata, what is measured of its audio, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of metadata.

    Attributes:
        name: as the metadata calls it; unique within one audit.
        audio_file: absolute path.
        text: what is spoken, as it is trained.
        language: XTTS's code; empty where it is not known.
        speaker: as the formatter names it; may be empty.
        where: file and line, for people: "metadata.csv:17".
    """

    name: str
    audio_file: str
    text: str
    language: str = ""
    speaker: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Audio:
    """What is measured of the decoded audio of one file. None where it cannot be; everything else is finite.

    Levels are in dB of full scale (a sine of full scale has -3.0). "Speech" is what stands out of the clip's own
    background, see `measure`.

    Attributes:
        digest: 32 hex digits of the bytes of the file, as `store.digest_of`; `store.MISSING` where there is none.
        error: empty, or one sentence why the file cannot be read or is not whole.
        seconds: length of what could be decoded.
        sample_rate: as the header says, in Hz.
        channels: as the header says.
        peak: largest absolute value of any channel; 1.0 is full scale.
        clipped_share: share of the samples that lie in runs of three or more at the clip's own highest or lowest value.
        dc: mean of the samples, 1.0 is full scale.
        level_dbfs: mean level of the speech.
        noise_dbfs: level of the quietest tenth of the clip; -120 for digital silence.
        snr_db: `level_dbfs` above `noise_dbfs`, an estimate: a clip without a pause has less than it deserves.
        active_seconds: length of the speech, without pauses.
        silence_share: share of the clip that is no speech.
        leading_seconds: before the first speech.
        trailing_seconds: after the last speech.
        pause_seconds: the longest pause inside.
        head_seconds: length of what sounds like steady noise, not like speech, at the beginning; it is no speech.
        head_db: its level above `level_dbfs` (so nearly always negative); None without any.
        tail_seconds: the same at the end.
        tail_db: the same at the end.
        bandwidth_hz: above it there is next to nothing; at most half the sample rate.
        pitch_hz: median of the voice's fundamental frequency.
        spectrum: mean spectrum of the speech, one signed byte for each of `measure.BANDS` bands of a sixth of an
            octave, in dB about their mean.
        print: fingerprint of 32 bytes by which near duplicates are found; empty where the clip is too short for one.
    """

    digest: str
    error: str = ""
    seconds: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    peak: float | None = None
    clipped_share: float | None = None
    dc: float | None = None
    level_dbfs: float | None = None
    noise_dbfs: float | None = None
    snr_db: float | None = None
    active_seconds: float | None = None
    silence_share: float | None = None
    leading_seconds: float | None = None
    trailing_seconds: float | None = None
    pause_seconds: float | None = None
    head_seconds: float | None = None
    head_db: float | None = None
    tail_seconds: float | None = None
    tail_db: float | None = None
    bandwidth_hz: float | None = None
    pitch_hz: float | None = None
    spectrum: bytes = b""
    print: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with a clip.

    Attributes:
        clip: `Clip.name`.
        code: one word for the kind of fault: "clipped", "near_duplicate".
        severity: "unusable" (XTTS replaces the clip silently), "hard" (surely wrong), "soft" (look at it) or
            "note" (true of the data, and no accusation).
        message: one sentence with the numbers.
        value: how bad, for sorting among faults of one code; larger is worse.
        other: `Clip.name` of the clip that this one is a copy of, for the faults that say so.
    """

    clip: str
    code: str
    severity: str
    message: str
    value: float | None = None
    other: str = ""
