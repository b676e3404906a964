"""Whether XTTS trains on a clip, by the stack's own limits (`XTTSDataset.load_item`, coqui-tts 0.28). Pure.

What it cannot use it replaces by another clip, drawn anew, and says nothing; of an evaluation it leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xtts_gatekeeper.data import LANGUAGES
from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.store import MISSING
from xtts_gatekeeper.dataset.tokens import Tokens

#: What `XTTSDataset.load_item` asks for at least.
SHORTEST_SECONDS = 0.5
#: The tokenizer cuts the region off: what is before the dash has to be one of these.
_LANGUAGES = frozenset(code.partition("-")[0] for code in LANGUAGES)


@dataclass(frozen=True)
class Limits:
    """What the trainer is set to; the defaults are those of `GPTArgs` and `XttsAudioConfig`.

    `sample_rate` is the one that XTTS resamples to; `max_wav_length` counts samples at that rate (255995 are 11.6 s at
    22050 Hz), `max_text_length` tokens.
    """

    sample_rate: int = 22050
    max_wav_length: int = 255995
    max_text_length: int = 200

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> Limits:
        """Those in the config.json of a run; the defaults where it does not say."""
        default = Limits()
        sections = (config.get("audio"), config.get("model_args"))
        audio, arguments = (section if isinstance(section, Mapping) else {} for section in sections)

        def number(section: Mapping[str, Any], key: str, otherwise: int) -> int:
            found = section.get(key)
            return found if isinstance(found, int) and found > 0 else otherwise

        return Limits(
            number(audio, "sample_rate", default.sample_rate),
            number(arguments, "max_wav_length", default.max_wav_length),
            number(arguments, "max_text_length", default.max_text_length),
        )


def unusable(clip: Clip, audio: Audio, tokens: Tokens | None, limits: Limits) -> Iterator[Fault]:
    """Every reason for which XTTS replaces a clip; none: it trains on it.

    Args:
        clip: the line of the metadata.
        audio: what is known of its file.
        tokens: what the tokenizer makes of its text; None where it was not asked.
        limits: of the training.
    """
    yield from _of_text(clip, tokens, limits)
    if audio.seconds is None or audio.sample_rate is None:
        code = "no_file" if audio.digest == MISSING else "unreadable"
        yield Fault(clip.name, code, "unusable", audio.error or "the audio cannot be read")
        return
    seconds, longest = audio.seconds, limits.max_wav_length / limits.sample_rate
    samples = resampled(audio.seconds, audio.sample_rate, limits.sample_rate)
    if samples < SHORTEST_SECONDS * limits.sample_rate:
        said = f"{seconds:.2f} s: XTTS takes no clip under {SHORTEST_SECONDS} s"
        yield Fault(clip.name, "too_short", "unusable", said, SHORTEST_SECONDS - seconds)
    if samples > limits.max_wav_length:
        said = f"{seconds:.2f} s: longer than max_wav_length, {limits.max_wav_length} samples or {longest:.2f} s"
        yield Fault(clip.name, "too_long", "unusable", said, seconds / longest)


def resampled(seconds: float, rate: int, new_rate: int) -> int:
    """How many samples `torchaudio.functional.resample` makes of a clip: the next whole number, upwards."""
    samples = round(seconds * rate)
    return samples if rate == new_rate else -(-samples * new_rate // rate)


def _of_text(clip: Clip, tokens: Tokens | None, limits: Limits) -> Iterator[Fault]:
    if not clip.text.strip():
        yield Fault(clip.name, "empty_text", "unusable", "there is no text")
    elif not any(character.isalnum() for character in clip.text):
        yield Fault(clip.name, "no_words", "hard", f"the text is {_shown(clip.text)}, in which there is nothing to say")
    if clip.language.partition("-")[0] not in _LANGUAGES:
        said = f"the language is {clip.language!r}, which XTTS does not have" if clip.language else "it has no language"
        yield Fault(clip.name, "language", "unusable", said)
        return
    if tokens is None:
        return
    if tokens.error:
        yield Fault(clip.name, "tokenizer", "unusable", f"the tokenizer fails on {_shown(clip.text)}: {tokens.error}")
    if tokens.unknown:
        said = (
            f"{tokens.unknown} of {tokens.count} tokens are [UNK]: the vocabulary lacks a part of {_shown(clip.text)}"
        )
        yield Fault(clip.name, "unknown_token", "unusable", said, float(tokens.unknown))
    if tokens.stops:
        said = f"the text makes {tokens.stops} [STOP] token(s): {_shown(clip.text)}"
        yield Fault(clip.name, "stop_token", "unusable", said, float(tokens.stops))
    if tokens.count > limits.max_text_length:
        said = f"{tokens.count} tokens: more than max_text_length, {limits.max_text_length}"
        yield Fault(clip.name, "long_text", "unusable", said, tokens.count / limits.max_text_length)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
