"""What is played: mono FLAC at 24 kHz, all of a session at one loudness, none of them clipped."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.listening.session import Stimulus
from xtts_gatekeeper.samples.audio import SILENT_DBFS, NoSpeech, read_sound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: XTTS speaks at this rate; a real clip at another one would sound otherwise by that alone.
RATE = 24000
#: EBU R 128's loudness, and 1 dB below full scale for what a player's converter adds between two samples.
TARGET_LUFS = -23.0
PEAK_DBFS = -1.0
#: BS.1770 measures blocks of 0.4 s, and of those nothing below -70.
_BLOCK_SECONDS = 0.4
#: So much FLAC is kept: a minute has 2 MB.
_CACHED_BYTES = 64 << 20


@dataclass(frozen=True)
class Probe:
    """How loud a file is, in LUFS, its highest sample in dBFS, both as it will be played at gain 1, and its digest."""

    loudness: float
    peak: float
    sha256: str


class Changed(Exception):
    """A file is not the one that the session was made of; the text is one sentence, without the file's name."""


def probe(path: Path) -> Probe:
    """Look at a file.

    Raises:
        NoSpeech: it cannot be heard; the text says why.
    """
    import numpy as np

    wave = _wave(path)
    peak = 20 * math.log10(float(np.abs(wave).max()))
    return Probe(round(loudness_of(wave), 3), round(peak, 3), _digest(path))


def loudness_of(wave: NDArray[np.float32]) -> float:
    """Integrated loudness in LUFS by ITU-R BS.1770; of what is too short or too soft for it, the level in dBFS.

    Args:
        wave: mono at `RATE` Hz.
    """
    import numpy as np

    level = 10 * math.log10(float(np.mean(np.square(wave, dtype=np.float64))))
    if len(wave) < _BLOCK_SECONDS * RATE:
        return level
    meter = import_extra("pyloudnorm", "listen").Meter(RATE)
    loudness = float(meter.integrated_loudness(wave.astype(np.float64)))
    return loudness if math.isfinite(loudness) else level


def target_of(stimuli: Sequence[Stimulus]) -> float:
    """The loudness at which all stimuli are played: `TARGET_LUFS`, or lower where the peak of one would be too high."""
    return min([TARGET_LUFS, *(s.loudness - s.peak + PEAK_DBFS for s in stimuli)])


def render(path: Path, stimulus: Stimulus, target: float) -> bytes:
    """A stimulus as FLAC, at `target` LUFS, without any metadata.

    Raises:
        Changed: the file has gone, or is another one.
    """
    import numpy as np

    try:
        wave, digest = _wave(path), _digest(path)
    except (NoSpeech, OSError) as error:
        raise Changed(f"the sample cannot be read any more ({error})") from None
    if digest != stimulus.sha256:
        raise Changed("the sample has changed since the session began; start `listen` again")
    loud = wave * 10 ** ((target - stimulus.loudness) / 20)
    sound = io.BytesIO()
    pcm = np.round(np.clip(loud, -1.0, 1.0) * 32767.0).astype(np.int16)  # 1 dB below, nothing is ever clipped here
    import_extra("soundfile", "listen").write(sound, pcm, RATE, format="FLAC", subtype="PCM_16")
    return sound.getvalue()


class Rendered:
    """Rendered stimuli, the latest that were asked for, up to some bytes; for several threads."""

    def __init__(self, most_bytes: int = _CACHED_BYTES) -> None:
        self._most = most_bytes
        self._found: OrderedDict[Any, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], bytes]) -> bytes:
        """What `make` made of `key`, now or before."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()  # unlocked, for it takes a while; two that ask at once make the same
        with self._lock:
            if key not in self._found:
                self._bytes += len(made)
            self._found[key] = made
            while self._bytes > self._most and len(self._found) > 1:
                _, gone = self._found.popitem(last=False)
                self._bytes -= len(gone)
        return made


def _wave(path: Path) -> NDArray[np.float32]:
    """The file as mono at `RATE` Hz.

    Raises:
        NoSpeech: as `read_sound`, and where its channels cancel each other.
    """
    import numpy as np

    sound = read_sound(path)
    mono = sound.native.mean(axis=0)
    mono = mono - mono.mean()  # an offset is no sound, and would take from the room for it
    if np.abs(mono).max() < 10 ** (SILENT_DBFS / 20):
        raise NoSpeech("it is silent")
    if sound.rate != RATE:
        mono = import_extra("soxr", "listen").resample(mono, sound.rate, RATE, quality="HQ")
    return np.asarray(mono, dtype=np.float32)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
