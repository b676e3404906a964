"""A speech set with transcripts out of nothing but a pip package: espeak-ng reads sentences aloud.

The voice is a robot's, good for trying out training, not for judging how speech sounds.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from xtts_gatekeeper.data import METADATA, import_extra, metadata_text, require_language, write_metadata
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.toy.sentences import SENTENCES

# Names and values from espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE = 1
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

_WORDS_PER_MINUTE = 160
# The one language that espeak-ng names differently from XTTS.
_VOICES = {"zh-cn": "cmn"}


def make_speech_set(
    folder: Path,
    sentences: Sequence[str] = SENTENCES,
    language: str = "en",
    on_clip: Callable[[int, int], None] | None = None,
) -> Path:
    """Speak `sentences` into `folder` in LJSpeech layout (22050 Hz, mono, 16 bit) and return the folder.

    The same sentences give the same files, byte for byte. A folder that already holds exactly this set is left as
    it is; one that was interrupted half-way is made anew. `on_clip(done, total)` is called after each clip spoken.

    Raises `UserError` for a language that XTTS does not have, sentences that cannot stand in a metadata.csv, a
    folder that holds another data set, or when the packages of the `train` extra are missing.
    """
    require_language(language)
    _check_sentences(sentences)
    texts = {f"{language}-{number:04d}": text for number, text in enumerate(sentences, start=1)}
    if _is_made(folder, texts):
        return folder
    soundfile = import_extra("soundfile")
    wavs = folder / "wavs"
    with _espeak(_VOICES.get(language, language)) as (rate, speak):
        wavs.mkdir(parents=True, exist_ok=True)
        (folder / METADATA).unlink(missing_ok=True)
        for done, (clip, text) in enumerate(texts.items(), start=1):
            with soundfile.SoundFile(str(wavs / f"{clip}.wav"), "w", rate, 1, "PCM_16") as file:
                file.buffer_write(speak(text), "int16")
            if on_clip is not None:
                on_clip(done, len(texts))
    write_metadata(folder, texts)
    return folder


def _check_sentences(sentences: Sequence[str]) -> None:
    if not sentences:
        raise UserError("there is no sentence to speak; give at least one")
    for sentence in sentences:
        if not set("|\r\n").isdisjoint(sentence) or not any(map(str.isalnum, sentence)):
            raise UserError(f"the sentence {sentence!r} cannot be used; give words on one line, without '|'")


def _is_made(folder: Path, texts: Mapping[str, str]) -> bool:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the speech set")
    metadata = folder / METADATA
    if not metadata.exists():
        return False
    if metadata.read_bytes() != metadata_text(texts).encode():
        raise UserError(f"{folder} already holds another data set; give a new folder or remove that one")
    return all((folder / "wavs" / f"{clip}.wav").is_file() for clip in texts)


@contextmanager
def _espeak(voice: str) -> Iterator[tuple[int, Callable[[str], bytes]]]:
    """Give espeak-ng's sample rate in Hz and a function from a text to its samples (16 bit, native order)."""
    loader = import_extra("espeakng_loader")
    spoken = bytearray()

    def keep(samples: int | None, count: int, _events: int | None) -> int:
        if samples:
            spoken.extend(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(text: str) -> bytes:
        spoken.clear()
        encoded = text.encode()
        failed = library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if failed or not spoken:
            raise UserError(f"espeak-ng cannot speak {text!r} with the voice {voice!r}; leave that sentence out")
        return bytes(spoken)

    # The library goes on from the noise and the phase where its last utterance ended, and nothing in it sets them
    # back, not even starting it again. Only a copy under a name of its own is loaded anew, with all at zero.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as private:
        try:
            library = ctypes.CDLL(shutil.copy(loader.get_library_path(), private))
        except OSError as error:
            raise UserError(f"espeak-ng cannot be loaded ({error}); set TMPDIR to a folder for programs") from None
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        data = Path(loader.get_data_path())
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data.parent).encode(), _INITIALIZE_DONT_EXIT)
        if rate <= 0:
            raise UserError(f"espeak-ng cannot read its voices in {data}; install it under a shorter path")
        # Held by a name until the library is done: ctypes frees a callback that Python no longer refers to.
        callback = _ON_SAMPLES(keep)
        try:
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()):
                raise UserError(f"espeak-ng has no voice {voice!r}; use another language")
            library.espeak_SetParameter(_PARAMETER_RATE, _WORDS_PER_MINUTE, 0)
            yield rate, speak
        finally:
            library.espeak_Terminate()
