"""A sound inside of a page: an MP3 in a data URI, which every browser plays and nothing has to be fetched for."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from xtts_gatekeeper.data import import_extra

#: Of a longer sound the beginning is heard: thirty of these make a page of some megabytes.
HEARD_SECONDS = 20.0
#: The rates that MP3 has, in Hz, and the one that others are brought to.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OTHERWISE_HZ = 22050


def data_uri(path: str | Path, seconds: float = HEARD_SECONDS, extra: str = "report") -> str | None:
    """The beginning of a sound file as a data URI, mono; None where the file cannot be read.

    It is a WAV where soundfile's library is one without MP3.

    Args:
        path: of any format that soundfile reads.
        seconds: of sound at most.
        extra: whose packages these are, for the sentence that names what is missing.

    Raises:
        UserError: soundfile, numpy or soxr is missing.
    """
    soundfile, numpy = import_extra("soundfile", extra), import_extra("numpy", extra)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = int(file.samplerate)
            wave = file.read(int(seconds * rate), dtype="float32", always_2d=True).mean(axis=1)
        wave = numpy.clip(numpy.nan_to_num(wave), -1.0, 1.0)
        if rate not in _MP3_RATES:
            wave, rate = import_extra("soxr", extra).resample(wave, rate, _OTHERWISE_HZ), _OTHERWISE_HZ
        format, kind = ("MP3", "mpeg") if "MP3" in soundfile.available_formats() else ("WAV", "wav")
        sound = io.BytesIO()
        soundfile.write(sound, wave, rate, format=format)
    except (OSError, ValueError, soundfile.SoundFileError):
        return None
    return f"data:audio/{kind};base64,{base64.b64encode(sound.getvalue()).decode()}"
