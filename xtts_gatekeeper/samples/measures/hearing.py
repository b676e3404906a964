"""What a recogniser hears, and how well the text that was to be spoken fits the audio, word by word.

Whisper is asked twice, about one encoding: to write down what it hears, and how likely each token of the text is where
it finds it (its cross-attention). The first tells what came instead, the second is not misled by spelling: where both
say that a word is not there, it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Unmeasured
from xtts_gatekeeper.samples.measures.models import imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Frames of the spectrogram a second, and the fewest that the encoder is given. It was trained on 30 s; 12 s give the
#: same character error rate (130 Asterisk clips: 0.072 against 0.075) at a quarter of the time, 5 s make it stutter.
_FRAMES = 100
_FEWEST_FRAMES = 1200
_MOST_FRAMES = 3000
#: Silence behind the audio, in frames, which tells Whisper that there is no more.
_SILENCE_FRAMES = 150
#: The position that the encoder gives a frame of the cross-attention, in seconds.
_ATTENTION_SECONDS = 0.02
#: A word that is at least so likely is where it should be. Of 76 real clips in three languages 5 % have a word below,
#: nearly all of them wrong in the transcript; of 42 clips with a word cut out or replaced 95 % do.
LIKELY = 0.35
#: Spellings that are looked at where a word is not. What the recogniser mishears in a real clip is mostly right in one.
_BEAM = 5
#: Tokens that a second of speech may take; what goes on beyond is a loop of the recogniser.
_TOKENS_A_SECOND = 12


@dataclass(frozen=True)
class Word:
    """A word of the text: where it is found, in seconds, and how likely it is there (mean over its tokens, 0-1)."""

    text: str
    begin: float
    end: float
    probability: float


@dataclass(frozen=True)
class Heard:
    """`text` is what was heard, `logprob` its mean log probability a token; `words` are those of the given text.

    `others` is what may have been heard as well, where a word of the text is not likely.
    """

    text: str
    logprob: float
    words: tuple[Word, ...]
    others: tuple[str, ...] = ()


class Recogniser:
    """Whisper by way of CTranslate2, in 8 bits.

    Args:
        folder: a converted model.
        threads: cores that it may use.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        whisper = imported("faster_whisper")
        self._model: Any = whisper.WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)

    def knows(self, language: str) -> bool:
        """Whether it was trained on a language of XTTS."""
        return _code(language) in self._model.supported_languages

    def hear(self, mono: NDArray[np.float32], text: str, language: str) -> Heard:
        """Listen to (samples,) at 16 kHz, of which up to 28 s are heard.

        Raises:
            Unmeasured: the language is not known to it.
        """
        import numpy as np

        code = _code(language)
        if not code or code not in self._model.supported_languages:
            raise Unmeasured(
                f"the recogniser does not know the language {language!r}" if language else "its language is not told"
            )
        seconds = min(len(mono) / RATE, (_MOST_FRAMES - _SILENCE_FRAMES) / _FRAMES)
        spectrum = self._model.feature_extractor(mono[: int(seconds * RATE)])
        frames = min(_MOST_FRAMES, max(_FEWEST_FRAMES, int(seconds * _FRAMES) + _SILENCE_FRAMES))
        spectrum = spectrum[:, :frames]
        spectrum = np.pad(
            spectrum, ((0, 0), (0, frames - spectrum.shape[1])), constant_values=float(spectrum.min(initial=0.0))
        )
        encoded = self._model.encode(spectrum)
        tokenizer = self._tokenizer(code)
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        most = len(prompt) + 8 + int(_TOKENS_A_SECOND * seconds)
        answer = self._model.model.generate(
            encoded, [prompt], beam_size=1, max_length=min(most, 440), return_scores=True, suppress_blank=True
        )[0]
        tokens = [token for token in answer.sequences_ids[0] if token < tokenizer.eot]
        words = self._words(encoded, tokenizer, text, frames) if text.strip() else ()
        if words and text.lower() != text:  # Titles In Capitals are less likely than they sound
            again = self._words(encoded, tokenizer, text.lower(), frames)
            if len(again) == len(words):
                words = tuple(max(pair, key=lambda word: word.probability) for pair in zip(words, again, strict=True))
        heard = tokenizer.decode(tokens).strip()
        others: tuple[str, ...] = ()
        if any(word.probability < LIKELY for word in words):
            found = self._model.model.generate(
                encoded, [prompt], beam_size=_BEAM, num_hypotheses=_BEAM, max_length=min(most, 440)
            )[0]
            spellings = (
                tokenizer.decode([token for token in ids if token < tokenizer.eot]) for ids in found.sequences_ids
            )
            others = tuple(dict.fromkeys(spelling.strip() for spelling in spellings))
        return Heard(heard, float(answer.scores[0]), words, others)

    def _words(self, encoded: Any, tokenizer: Any, text: str, frames: int) -> tuple[Word, ...]:
        """Find the words of a text: their time is where the attention of their tokens goes."""
        tokens = tokenizer.encode(" " + " ".join(text.split()))[:220]
        (found,) = self._model.model.align(encoded, tokenizer.sot_sequence, [tokens], frames)
        words, pieces = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
        began = [math.inf] * (len(tokens) + 1)
        for token, frame in found.alignments:
            if token < len(began):
                began[token] = min(began[token], frame * _ATTENTION_SECONDS)
        result, at = [], 0
        for word, piece in zip(words[:-1], pieces[:-1], strict=True):
            to = at + len(piece)
            sure = found.text_token_probs[at:to]
            begin, end = began[at], began[min(to, len(began) - 1)]
            result.append(Word(word.strip(), _finite(begin), _finite(end), float(sum(sure) / max(1, len(sure)))))
            at = to
        return tuple(result)

    def _tokenizer(self, code: str) -> Any:
        tokenizer = imported("faster_whisper.tokenizer").Tokenizer
        return tokenizer(self._model.hf_tokenizer, True, task="transcribe", language=code)


def _code(language: str) -> str:
    """Whisper's name of a language of XTTS."""
    return language.partition("-")[0]


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else 0.0
