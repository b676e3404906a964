"""Reading a file of speech to measure it, or saying in one sentence why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_gatekeeper.data import import_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rate at which every model of ours listens, in Hz.
RATE = 16000
#: More is no sample of a sentence, and would take minutes to measure.
LONGEST_SECONDS = 120.0
#: Less holds no syllable: a short one lasts 0.1 s.
SHORTEST_SECONDS = 0.1
#: What peaks below this, in dB of full scale, is silence: the last bit of 16 is at -90.
SILENT_DBFS = -60.0


class NoSpeech(Exception):
    """The audio cannot be measured; the text is one sentence, without the file's name."""


@dataclass(frozen=True, eq=False)
class Sound:
    """Decoded audio: `native` (channels, samples) at `rate` Hz as it lies in the file, `mono` (samples,) at `RATE` Hz.

    Both are float32, full scale being 1; `mono` is the mean of the channels.
    """

    native: NDArray[np.float32]
    rate: int
    mono: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.native.shape[1]) / self.rate


def read_sound(path: Path) -> Sound:
    """Read an audio file of any format that soundfile knows.

    Raises:
        NoSpeech: it is missing, no audio, empty, silent, too short or too long, or holds NaN or infinity.
    """
    soundfile = import_extra("soundfile", "measures")
    if not path.is_file():
        raise NoSpeech("there is no such file")
    if not path.stat().st_size:
        raise NoSpeech("the file is empty")
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, frames = int(file.samplerate), int(file.frames)
            if frames > LONGEST_SECONDS * rate:
                raise NoSpeech(f"it lasts {frames / rate:.0f} s, and a sample at most {LONGEST_SECONDS:.0f}: cut it")
            native = file.read(dtype="float32", always_2d=True).T
    except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError) as error:
        raise NoSpeech(f"it cannot be read as audio ({_said(error)})") from None
    return sound_of(native, rate)


def sound_of(native: NDArray[np.float32], rate: int) -> Sound:
    """Decoded audio of shape (channels, samples), made ready to be measured.

    Raises:
        NoSpeech: as `read_sound`.
    """
    import numpy as np

    if not native.shape[1]:
        raise NoSpeech("there is no audio in it")
    if not np.isfinite(native).all():
        share = 1 - float(np.isfinite(native).mean())
        raise NoSpeech(f"{share:.1%} of its samples are NaN or infinite")
    if native.shape[1] < SHORTEST_SECONDS * rate:
        said = "one sample" if native.shape[1] == 1 else f"{native.shape[1] / rate:.3f} s"
        raise NoSpeech(f"it has {said} of audio, and the shortest syllable {SHORTEST_SECONDS} s")
    peak = float(np.abs(native - native.mean(axis=1, keepdims=True)).max())
    if peak < 10 ** (SILENT_DBFS / 20):
        raise NoSpeech("it is silent")
    mono = native.mean(axis=0)
    if rate != RATE:
        mono = import_extra("soxr", "measures").resample(mono, rate, RATE, quality="HQ")
    return Sound(native, rate, np.ascontiguousarray(mono, dtype=np.float32))


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0].rpartition(": ")[2].rstrip(".") if str(error) else type(error).__name__
