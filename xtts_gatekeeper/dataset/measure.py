"""What is measured of one audio file: one decoding, one spectrogram, plain numbers.

soundfile decodes, numpy does the rest. librosa is not used: to import it takes each worker two seconds, and in those
it measures half an hour of speech.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.clip import Audio
from xtts_gatekeeper.dataset.container import cut_off
from xtts_gatekeeper.dataset.prints import fingerprint_of
from xtts_gatekeeper.dataset.store import MISSING, digest_of, missing

#: Bands of a sixth of an octave from 150 Hz up: to 3400 Hz, what a telephone leaves and what every rate has.
BANDS = 28
_LOWEST_BAND_HZ = 150.0
#: Bands of the frames, on the mel scale, within what every rate has.
MELS = 16
_MEL_HZ = (100.0, 3700.0)
#: Step of the frames.
HOP_SECONDS = 0.02
_WINDOW_SECONDS = 0.032
#: A frame's band is a signed byte of so many dB, about the level of the speech.
FRAME_DB = 0.5
_BINS_A_BAND = np.float32(32)
#: More of one clip is not measured, only counted: XTTS takes 12 seconds.
MEASURED_SECONDS = 60.0

_FLOOR_DB = -120.0
#: Speech lies less than this below the loudest frames (95th percentile) ...
_SPEECH_RANGE_DB = 35.0
#: ... and at least this above the quietest (10th percentile), as long as that leaves at least the loudest 12 dB.
_ABOVE_NOISE_DB = 8.0
_LEAST_RANGE_DB = 12.0
#: A clip whose loudest frames are below this is silent.
SILENT_DBFS = -60.0
#: Pauses that are shorter belong to speech (the closure of a plosive), bursts that are shorter do not (a click).
_SHORTEST_PAUSE_SECONDS = 0.12
_SHORTEST_BURST_SECONDS = 0.04
#: Noise keeps its level: the standard deviation of the smoothed level is below this. In speech it is 4 dB and more.
_STEADY_DB = 1.6
_STEADY_SECONDS = 0.3
_PITCH_HZ = (60.0, 420.0)
_VOICED, _NEARLY = 0.5, 0.9
#: Nothing of the speech is this far below the strongest part of its spectrum: above the highest frequency that is not,
#: there is nothing. 16 bits leave 80 dB and more.
_BANDWIDTH_DB = 70.0
#: Flat tops of fewer samples are chance, and those of a clip that is quieter than this are its few bits.
_FLAT_SAMPLES = 3
_FLAT_PEAK = 0.05

Array: TypeAlias = Any  # of numpy, which mypy does not look into


class Measured(NamedTuple):
    """`frames`: the course of the spectrum, `MELS` signed bytes for each `HOP_SECONDS` from first to last speech."""

    audio: Audio
    frames: bytes


def measure(path: str) -> Measured:
    """Measure a file; never raises for what is wrong with it."""
    digest = digest_of(path)
    if digest == MISSING:
        return Measured(missing(path), b"")
    soundfile = import_extra("soundfile")
    try:
        problem = cut_off(Path(path))
        with soundfile.SoundFile(path) as file:
            rate, channels, promised = file.samplerate, file.channels, file.frames
            samples = file.read(int(MEASURED_SECONDS * rate), dtype="float32", always_2d=True)
            frames = len(samples) + sum(len(block) for block in file.blocks(1 << 18, dtype="float32"))
    except (OSError, ValueError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        reason = str(error).removesuffix(".").rpartition(": ")[2] or type(error).__name__
        return Measured(Audio(digest=digest, error=f"the file is not readable as audio ({reason})"), b"")
    if not frames or not rate:
        return Measured(Audio(digest=digest, error="the file holds no audio"), b"")
    if not problem and frames < promised < 2**62:
        problem = f"ends after {frames} of the {promised} samples that its header promises"
    found, course = _numbers(samples, rate)
    said = found.pop("error", "") if not problem else f"the file {problem}"
    audio = Audio(digest=digest, error=said, seconds=frames / rate, sample_rate=rate, channels=channels, **found)
    return Measured(audio, course)


def _numbers(samples: Array, rate: int) -> tuple[dict[str, Any], bytes]:
    if not np.isfinite(samples).all():
        return {"error": "the file holds samples that are not finite (NaN or Inf)"}, b""
    mono = samples.mean(axis=1)
    peak = float(np.abs(samples).max())
    dc = float(mono.mean(dtype=np.float64))
    found: dict[str, Any] = {"peak": peak, "dc": dc, "clipped_share": _clipped_share(samples, peak)}
    power = spectrogram(mono - np.float32(dc), rate)
    level = _db(power.sum(axis=1))
    loud, quiet = (float(np.percentile(level, at)) for at in (95, 10))
    silent = loud < SILENT_DBFS
    bands = _mels(power, rate)
    evenness = bands.mean(axis=1)
    head, tail = (0, 0) if silent else (_steady(level, evenness, loud), _steady(level[::-1], evenness[::-1], loud))
    if head + tail > len(level) - 10:  # nothing but noise
        silent = True
    active: Array = np.zeros(len(level), bool)
    if not silent:
        body = level[head : len(level) - tail]
        active[head : len(level) - tail] = _speech(body, quiet)
    if not active.any():
        return {**found, "active_seconds": 0.0, "silence_share": 1.0, "noise_dbfs": quiet}, b""
    first, last = int(np.argmax(active)), len(active) - int(np.argmax(active[::-1]))
    speech = power[active]
    speech_db = float(_db(speech.sum(axis=1).mean()))
    course = np.clip(np.round((bands[first:last] - speech_db) / FRAME_DB), -127, 127)
    return {
        **found,
        "level_dbfs": speech_db,
        "noise_dbfs": quiet,
        "snr_db": speech_db - quiet,
        "active_seconds": float(active.sum() * HOP_SECONDS),
        "silence_share": float(1 - active.mean()),
        "leading_seconds": (first - head) * HOP_SECONDS,
        "trailing_seconds": (len(active) - tail - last) * HOP_SECONDS,
        "pause_seconds": _longest(~active[first:last]) * HOP_SECONDS,
        "head_seconds": head * HOP_SECONDS,
        "head_db": float(_db(power[:head].sum(axis=1).mean()) - speech_db) if head else None,
        "tail_seconds": tail * HOP_SECONDS,
        "tail_db": float(_db(power[-tail:].sum(axis=1).mean()) - speech_db) if tail else None,
        "bandwidth_hz": _bandwidth_hz(speech.mean(axis=0), rate),
        "pitch_hz": _pitch_hz(speech, rate),
        "spectrum": _spectrum(speech.mean(axis=0), rate),
        "print": fingerprint_of(course, MELS),
    }, course.astype(np.int8).tobytes()


def spectrogram(mono: Array, rate: int) -> Array:
    """Power in dB-ready units, shape (frames, bins): the sum over the bins of a frame is its mean square."""
    size = max(8, round(_WINDOW_SECONDS * rate))
    hop = max(1, round(HOP_SECONDS * rate))
    if len(mono) < size:
        mono = np.pad(mono, (0, size - len(mono)))
    window: Array = np.hanning(size).astype(np.float32)
    parts = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop]
    fft_size = _fft_size(size)
    spectrum = np.fft.rfft(parts * window, n=fft_size, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.asarray(power * np.float32(2 / (fft_size * float((window**2).sum()))))


def _fft_size(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _db(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))


def _clipped_share(samples: Array, peak: float) -> float:
    if peak < _FLAT_PEAK:
        return 0.0
    clipped = 0
    for channel in samples.T:
        for side in (channel, -channel):
            top = float(side.max())
            if top < _FLAT_PEAK:
                continue
            at_top = side >= top * 0.9995
            edges = np.flatnonzero(np.diff(np.concatenate(([0], at_top.view(np.int8), [0]))))
            lengths = edges[1::2] - edges[::2]
            clipped += int(lengths[lengths >= _FLAT_SAMPLES].sum())
    return float(clipped / samples.size)


def _speech(level: Array, quiet: float) -> Array:
    """Which frames are speech."""
    loud = float(np.percentile(level, 95))
    threshold = min(max(loud - _SPEECH_RANGE_DB, quiet + _ABOVE_NOISE_DB), loud - _LEAST_RANGE_DB)
    active = level > threshold
    active = ~_without_short(~active, _SHORTEST_PAUSE_SECONDS)
    return _without_short(active, _SHORTEST_BURST_SECONDS)


def _without_short(mask: Array, seconds: float) -> Array:
    """The mask without its runs of True that are shorter; those at the ends stay."""
    edges: Array = np.flatnonzero(np.diff(mask.view(np.int8))) + 1
    bounds = np.concatenate(([0], edges, [len(mask)]))
    kept = mask.copy()
    for start, end in itertools.pairwise(bounds[1:-1]):
        if mask[start] and (end - start) * HOP_SECONDS < seconds:
            kept[start:end] = False
    return np.asarray(kept)


def _longest(mask: Array) -> int:
    edges: Array = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def _steady(level: Array, bands: Array, loud: float) -> int:
    """Number of frames at the beginning that keep one level, as noise does; 0 for fewer than `_STEADY_SECONDS`.

    The level is the mean of the bands in dB: that of noise keeps still whatever its colour. Below `_SPEECH_RANGE_DB` it
    is silence, whatever its course.
    """
    least = round(_STEADY_SECONDS / HOP_SECONDS)
    if len(level) < 2 * least or loud - float(np.median(level[:least])) > _SPEECH_RANGE_DB:
        return 0
    counts = np.arange(1, len(level) + 1)
    total, squares = np.cumsum(bands), np.cumsum(bands**2)
    spread = np.sqrt(np.maximum(squares / counts - (total / counts) ** 2, 0))
    steady = np.flatnonzero(spread[least - 1 :] < _STEADY_DB)
    return int(steady[-1]) + least if len(steady) else 0


def _bandwidth_hz(mean: Array, rate: int) -> float:
    level = _db(np.convolve(mean, np.ones(5) / 5, mode="same") / mean.max() + 1e-12)
    return float(np.flatnonzero(level > -_BANDWIDTH_DB)[-1] / (len(mean) - 1) * rate / 2)


def _pitch_hz(speech: Array, rate: int) -> float | None:
    """Median over the voiced frames, by the peak of the autocorrelation of what lies below 1 kHz."""
    bins = speech.shape[1]
    low = speech.copy()
    low[:, round(1000 / (rate / 2) * (bins - 1)) :] = 0
    size = 2 * (bins - 1)
    correlation = np.fft.irfft(low, n=size, axis=1)
    window: Array = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(round(_WINDOW_SECONDS * rate)), n=2 * size)) ** 2)
    shortest, longest = max(1, int(rate / _PITCH_HZ[1])), min(size // 2, math.ceil(rate / _PITCH_HZ[0]))
    if longest - shortest < 3:
        return None
    part = correlation[:, shortest:longest] / np.maximum(correlation[:, :1], 1e-20)
    part = part / np.maximum(window[shortest:longest] / window[0], 0.1)
    # Twice the period fits nearly as well as the period: the first peak that is nearly the highest counts.
    peak = (part[:, 1:-1] >= part[:, :-2]) & (part[:, 1:-1] > part[:, 2:])
    peak &= part[:, 1:-1] > np.maximum(_NEARLY * part.max(axis=1, keepdims=True), _VOICED)
    best, voiced = peak.argmax(axis=1) + 1, peak.any(axis=1)
    return float(rate / (shortest + np.median(best[voiced]))) if voiced.sum() >= 5 else None


def _filters(centres: Array, rate: int, bins: int) -> Array:
    """Triangles between neighbouring centres, in Hz, shape (bins, bands); at least as wide as two bins."""
    frequencies = np.linspace(0, rate / 2, bins)[:, None]
    least = rate / 2 / (bins - 1)
    below = np.maximum(centres[1:-1] - centres[:-2], least)
    above = np.maximum(centres[2:] - centres[1:-1], least)
    rising = 1 - (centres[1:-1] - frequencies) / below
    falling = 1 - (frequencies - centres[1:-1]) / above
    weights = np.clip(np.minimum(rising, falling), 0, 1)
    return np.asarray(weights / np.maximum(weights.sum(axis=0), 1e-9), dtype=np.float32)


def _spectrum(mean: Array, rate: int) -> bytes:
    centres = _LOWEST_BAND_HZ * 2 ** (np.arange(-1, BANDS + 1) / 6)
    level = _db(mean @ _filters(centres, rate, len(mean)) / mean.max() + 1e-8)
    return bytes(np.clip(np.round(level - level.mean()), -127, 127).astype(np.int8).tobytes())


def _mels(power: Array, rate: int) -> Array:
    """Levels of the bands in dB, shape (frames, `MELS`)."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in _MEL_HZ)
    centres = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    return np.asarray(_db(power @ _filters(centres, rate, power.shape[1]) * _BINS_A_BAND))
