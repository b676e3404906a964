"""All knowledge of how an `Xtts` speaks: the inside of a training model, or one that was loaded for it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xtts_gatekeeper.trainer_port.process import unchanged_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

# torch and transformers are imported inside functions: gatekeep() may run before the recipe imports them.

#: What of a model's config decides how it speaks (`XttsConfig`); the voice is made by the second line.
_SETTINGS = ("temperature", "length_penalty", "repetition_penalty", "top_k", "top_p")
_VOICE_SETTINGS = ("gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs")

#: Layers that are there only while the model speaks: names inside of `xtts.gpt`.
_INFERENCE_LAYERS = (("", "gpt_inference"), ("gpt", "wte"))

#: So many values of each tensor go into the digest of the weights.
_DIGEST_VALUES = 64

#: How speech ended: the model said so, its limit was reached, or nobody waits any more.
Ending = Literal["itself", "limit", "asked"]


class NoNumbers(Exception):
    """The model answers NaN or infinity."""


class Unreadable(Exception):
    """A text that the model cannot take."""


@dataclass(frozen=True)
class Spoken:
    """Mono audio between -1 and 1 at `rate` Hz, and how it ended."""

    audio: NDArray[Any]
    rate: int
    ending: Ending


@dataclass(frozen=True)
class Settings:
    """By what an `Xtts` generates (`speech`) and makes a voice out of clips (`voice`)."""

    speech: dict[str, Any]
    voice: dict[str, Any]


def settings_of(xtts: Any) -> Settings:
    """The settings in the model's own config, by which its stock `synthesize` speaks, too."""
    config = xtts.config
    return Settings(
        {key: getattr(config, key) for key in _SETTINGS}, {key: getattr(config, key) for key in _VOICE_SETTINGS}
    )


def has_decoder_weights(xtts: Any) -> bool:
    """Whether the part of the model that makes sound was ever trained: a model that begins with none makes noise.

    The recipe's config tells of a base. A checkpoint of another run does not need one: what tells then is the running
    mean of the decoder's batch normalisation, exactly zero from birth until it is trained.
    """
    if getattr(xtts.args, "xtts_checkpoint", None):
        return True
    means = (b for name, b in xtts.hifigan_decoder.named_buffers() if name.endswith("running_mean"))
    return any(bool(mean.any()) for mean in means)


def weights_digest(xtts: Any) -> str:
    """Which weights these are, as 12 hexadecimal digits, out of up to 64 values of each tensor, spread over it.

    Any update moves values in every tensor that trains, so this tells two states of one training apart, in
    milliseconds, where reading all 1.8 GB takes seconds. The same on any device.
    """
    import torch

    digest, parts = hashlib.sha256(), []
    with torch.no_grad():
        for name, tensor in xtts.state_dict().items():
            if name.startswith(("gpt.gpt_inference.", "gpt.gpt.wte.")):
                continue
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().reshape(-1)
            parts.append(flat[:: max(1, len(flat) // _DIGEST_VALUES)][:_DIGEST_VALUES].float())
        digest.update(torch.cat(parts).cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def speaking(xtts: Any) -> Iterator[None]:
    """Let a model speak within the block, and leave no trace of it.

    However the block ends, the modes of all modules, gradients, autocast and every random number generator are as
    before, and the layers that generation needs are gone, which would else be in the next checkpoint; those that
    somebody else had set up stay.
    """
    import torch

    gpt = xtts.gpt
    modes = [(module, module.training) for module in xtts.modules()]
    had = {name: hasattr(_holder(gpt, inside), name) for inside, name in _INFERENCE_LAYERS}
    try:
        with _quietly(), unchanged_rng(), _in_single_precision(xtts), torch.inference_mode():
            if not had["gpt_inference"]:
                gpt.init_gpt_for_inference(kv_cache=xtts.args.kv_cache, use_deepspeed=False)
            xtts.train(False)  # its eval() would make the layers once more
            yield
    finally:
        for inside, name in _INFERENCE_LAYERS:
            if not had[name] and hasattr(_holder(gpt, inside), name):
                delattr(_holder(gpt, inside), name)
        for module, training in modes:
            module.training = training


def _holder(gpt: Any, inside: str) -> Any:
    return getattr(gpt, inside) if inside else gpt


@contextlib.contextmanager
def _in_single_precision(xtts: Any) -> Iterator[None]:
    """Without autocast, and with weights of 32 bits: those of a model in half precision are put back untouched.

    XTTS hands what it makes to numpy, which knows no bfloat16, and its norms mix no types on a CPU.
    """
    import torch

    halves = (torch.float16, torch.bfloat16)
    tensors = [tensor for tensor in (*xtts.parameters(), *xtts.buffers()) if tensor.dtype in halves]
    kept = [(tensor, tensor.data) for tensor in tensors]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        with torch.autocast(next(xtts.parameters()).device.type, enabled=False):
            yield
    finally:
        for tensor, data in kept:
            tensor.data = data


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what transformers has to say at each set-up about a config that XTTS makes."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def voice_latents(xtts: Any, clips: Sequence[Path]) -> tuple[Any, Any]:
    """What the model makes of clips of a voice: latents for the GPT and an embedding for the decoder.

    Raises:
        NoNumbers: it makes NaN or infinity of them.
    """
    import torch

    wanted = dict(settings_of(xtts).voice)
    wanted["max_ref_length"] = wanted.pop("max_ref_len")
    latents, embedding = xtts.get_conditioning_latents([str(clip) for clip in clips], **wanted)
    if not (bool(torch.isfinite(latents).all()) and bool(torch.isfinite(embedding).all())):
        raise NoNumbers("the model makes NaN or Inf of the voice")
    return latents, embedding


def speak(
    xtts: Any,
    text: str,
    language: str,
    voice: tuple[Any, Any],
    *,
    seed: int,
    limit_seconds: float,
    asked: Callable[[], bool] = lambda: False,
) -> Spoken:
    """Say a text, within `speaking`.

    Args:
        xtts: the model.
        text: what to say.
        language: one of XTTS's.
        voice: see `voice_latents`.
        seed: for every random number generator.
        limit_seconds: of speech; what is longer is ended there.
        asked: whether to end at once; looked at after each code, of which 21 make a second.

    Raises:
        NoNumbers: the model answers NaN or infinity.
        Unreadable: the tokenizer fails on the text, or it is too long.
    """
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    _check_text(xtts, text, language)
    torch.manual_seed(seed)
    watch = _Watch(xtts.gpt.stop_audio_token, codes_in(xtts, limit_seconds), asked)
    found = xtts.inference(
        text,
        language,
        *voice,
        **settings_of(xtts).speech,
        stopping_criteria=StoppingCriteriaList([watch.stop]),
        logits_processor=LogitsProcessorList([watch.check]),
    )
    return Spoken(found["wav"].reshape(-1), int(xtts.args.output_sample_rate), watch.ending)


def _check_text(xtts: Any, text: str, language: str) -> None:
    try:
        tokens = len(xtts.tokenizer.encode(text.strip().lower(), lang=language))
    except Exception as error:  # packages of languages that are missing, num2words that knows no digits of one
        said = str(error) or type(error).__name__
        raise Unreadable(f"XTTS's tokenizer cannot read the text ({said})") from None
    if tokens >= xtts.args.gpt_max_text_tokens:
        raise Unreadable(f"the text has {tokens} tokens, and XTTS speaks {xtts.args.gpt_max_text_tokens - 1}")


def codes_in(xtts: Any, seconds: float) -> int:
    """How many codes of the GPT make so many seconds of speech, rounded up, at least one."""
    return max(1, -int(-seconds * xtts.args.input_sample_rate // xtts.gpt.code_stride_len))


class _Watch:
    """Looks on while codes are generated, one call of each method a code."""

    def __init__(self, stop_code: int, most: int, asked: Callable[[], bool]) -> None:
        self._stop_code = stop_code
        self._most = most
        self._asked = asked
        self._codes = 0
        self._was_asked = False
        self._latest: Any = None

    def check(self, codes: Any, scores: Any) -> Any:
        """On a GPU drawing from NaN ends in an assertion on the device, and with it the process."""
        if not bool(scores.max() < math.inf):  # a NaN among them is the greatest
            raise NoNumbers("the model answers NaN or Inf")
        return scores

    def stop(self, codes: Any, scores: Any, **more: Any) -> Any:
        """Whether to stop, for each item of the batch."""
        import torch

        self._codes += 1
        self._latest = codes
        self._was_asked = self._was_asked or self._asked()
        done = self._was_asked or self._codes >= self._most
        return torch.full((codes.shape[0],), done, dtype=torch.bool, device=codes.device)

    @property
    def ending(self) -> Ending:
        """How it ended. The limit of the model itself is one, too."""
        if self._latest is not None and int(self._latest[0, -1]) == self._stop_code:
            return "itself"
        return "asked" if self._was_asked else "limit"


class Clock:
    """A span of time that can run out: `Clock(120)` is True, called, after 120 seconds."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Whether it has run out."""
        return time.monotonic() >= self._ends
