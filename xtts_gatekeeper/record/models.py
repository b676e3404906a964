"""Which logged metric plays which role, for the models that people train with the Coqui Trainer and beside it.

Rules speak of roles (`eval.objective`, `train.total`, `eval.duration`); the model is found by looking at what the run
logs, so that one policy serves all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

#: The roles a rule can name, each with a side before it.
ROLES = ("objective", "total", "mel", "text", "duration", "pitch", "energy", "stop")


@dataclass(frozen=True)
class Model:
    """One kind of model: it is recognised by the metrics in `signature`, all of which it logs.

    `roles` maps a role to the logged names that play it; the first that a run has is taken.
    """

    name: str
    signature: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]


#: In order: the first whose signature a run fulfils is taken; the last fits any run.
MODELS: tuple[Model, ...] = (
    Model(
        "XTTS",
        ("mel_ce",),
        {"objective": ("mel_ce",), "total": ("loss",), "mel": ("mel_ce",), "text": ("text_ce", "loss_text_ce")},
    ),
    Model(
        # A GAN: the totals of generator and discriminator say nothing about quality, the mel loss does. The Trainer
        # numbers the totals of the two optimizers (`loss_0`, `loss_1`; `loss`, `loss-1` in 0.4).
        "VITS",
        ("loss_mel", "loss_kl"),
        {
            "objective": ("loss_mel",),
            "total": ("loss_1", "loss-1", "loss"),
            "mel": ("loss_mel",),
            "duration": ("loss_duration",),
        },
    ),
    Model(
        # The likelihood of the mel is negative once it fits.
        "GlowTTS",
        ("log_mle",),
        {"objective": ("loss",), "total": ("loss",), "mel": ("log_mle",), "duration": ("loss_dur",)},
    ),
    Model(
        # FastPitch, FastSpeech 2, SpeedySpeech: their total holds an alignment loss whose weight grows with time, and
        # so cannot be compared over epochs.
        "ForwardTTS",
        ("loss_spec",),
        {
            "objective": ("loss_spec",),
            "total": ("loss",),
            "mel": ("loss_spec",),
            "duration": ("loss_dur",),
            "pitch": ("loss_pitch",),
            "energy": ("loss_energy",),
        },
    ),
    Model(
        "Tacotron",
        ("decoder_loss",),
        {
            "objective": ("postnet_loss", "decoder_loss"),
            "total": ("loss",),
            "mel": ("postnet_loss", "decoder_loss"),
            "stop": ("stopnet_loss",),
        },
    ),
    Model(
        # DelightfulTTS, AlignTTS, the trainer that the checklist was written for, tables typed by hand, and others.
        "other",
        (),
        {
            "objective": ("mel_ce", "loss_mel", "mel_loss", "mel", "loss", "total", "loss_total", "total_loss"),
            "total": ("loss", "total", "loss_total", "total_loss"),
            "mel": ("loss_mel", "mel_loss", "mel", "loss_l1"),
            "text": ("text_ce", "loss_text_ce", "loss_text", "text_loss"),
            "duration": ("loss_duration", "loss_dur", "duration_loss", "dur_loss", "duration"),
            "pitch": ("loss_pitch", "pitch_loss", "pitch"),
            "energy": ("loss_energy", "energy_loss", "energy"),
            "stop": ("loss_stop", "stop_loss", "stopnet_loss", "stop"),
        },
    ),
)

#: Scores for which higher is better; everything else is a loss. The five are the rows of the checklist's rubric;
#: `other_languages` are marks, too, of prompts in languages that are not trained on.
HIGHER_IS_BETTER = frozenset(
    f"sample.{name}"
    for name in ("score", "intelligibility", "prosody", "pronunciation", "stopping", "artifacts", "other_languages")
)


def model_of(metrics: Collection[str]) -> Model:
    """The model that logs `metrics` (names with their side)."""
    logged = {name.partition(".")[2] for name in metrics}
    return next(model for model in MODELS if logged.issuperset(model.signature))


def resolve(name: str, metrics: Collection[str], names: Mapping[str, str] | None = None) -> str | None:
    """The metric that `name` means in a run that logs `metrics`, or None when it has none such.

    Args:
        name: a metric (`eval.loss_dur`) or a role with its side (`eval.duration`).
        metrics: what the run logs, on either side.
        names: a policy's own `metrics:`, which come first.
    """
    chosen = (names or {}).get(name)
    if chosen in metrics:
        return chosen
    if name in metrics:
        return name
    side, _, role = name.partition(".")
    candidates = (f"{side}.{logged}" for logged in model_of(metrics).roles.get(role, ()))
    return next((metric for metric in candidates if metric in metrics), None)


def known_metrics() -> set[str]:
    """Every metric and role that a policy can name without saying more."""
    logged = {name for model in MODELS for names in model.roles.values() for name in names}
    logged |= {name for model in MODELS for name in model.signature} | {"loss_mel_ce", *ROLES}
    return {f"{side}.{name}" for side in ("eval", "train") for name in logged} | HIGHER_IS_BETTER | {"sample.faults"}
