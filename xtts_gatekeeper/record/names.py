"""One vocabulary for what a log, a TensorBoard tag or a column of a table calls a metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Side = Literal["eval", "train"]

#: Logged key -> (our name, weight of the loss) in XTTS: the stock recipe weighs its text cross entropy by 0.01.
XTTS_WEIGHTS: dict[str, tuple[str, float]] = {"loss_mel_ce": ("mel_ce", 1.0), "loss_text_ce": ("text_ce", 0.01)}

#: Keys that the Trainer logs among the losses and that are none.
NO_LOSSES = ("current_lr", "step_time", "loader_time", "grad_norm", "amp_scaler")

_SIDES: dict[str, Side] = {
    "eval": "eval",
    "evaluation": "eval",
    "evalstats": "eval",
    "val": "eval",
    "valid": "eval",
    "validation": "eval",
    "dev": "eval",
    "train": "train",
    "training": "train",
    "trainepochstats": "train",
}
_NOISE = ("avg", "average", "mean", "stats", "metrics")
_INDEX = {
    "epoch": "epoch",
    "epochs": "epoch",
    "step": "step",
    "steps": "step",
    "global_step": "step",
    "iteration": "step",
    "iter": "step",
    "optimizer_step": "step",
    "lr": "lr",
    "lr_end": "lr",
    "learning_rate": "lr",
    "current_lr": "lr",
    "mem_state": "memory_state",
    "memory_state": "memory_state",
    "sample_score": "sample_score",
}


@dataclass(frozen=True)
class Label:
    """What a column or a tag means: a side (None: it does not say) and a name; `index` columns are no metrics.

    `index` is `epoch`, `step`, `lr`, `memory_state`, `sample_score` or None.
    """

    side: Side | None
    name: str
    index: str | None = None

    @property
    def metric(self) -> str:
        """The metric's name in our vocabulary: `eval.loss`, `train.loss_mel_ce`; without a side the bare name."""
        return f"{self.side}.{self.name}" if self.side else self.name


def read_label(label: str) -> Label:
    """What a column's header or a TensorBoard tag means.

    Sides are recognised by whole words (`val`, `valid`, `eval`, `dev`, `train`, ...); units in brackets, Markdown
    emphasis and words such as `avg` are passed over.

    >>> read_label("EvalStats/avg_loss_mel_ce").metric
    'eval.loss_mel_ce'
    >>> read_label("loss/val_mel_epoch").metric
    'eval.loss_mel'
    >>> read_label("**LR (end)**").index
    'lr'
    >>> read_label("Mel CE").metric
    'mel_ce'
    """
    words = re.findall(r"[^\W_]+", re.sub(r"\([^)]*\)", " ", label.casefold()))
    if len(words) > 1 and words[-1] == "epoch":  # `val_mel_epoch`: the mean over an epoch
        words.pop()
    side = next((_SIDES[word] for word in words if word in _SIDES), None)
    name = "_".join(word for word in words if word not in _SIDES and word not in _NOISE)
    index = _INDEX.get(name)
    return Label(side if index is None else None, name or "value", index)


def is_loss(key: str) -> bool:
    """Whether a key of the Trainer's loss dict is a loss, not a time, a rate or a norm."""
    return not key.removeprefix("avg_").startswith(NO_LOSSES)


def named_metrics(
    side: Side, logged: Mapping[str, float], named: Mapping[str, tuple[str, float]] = XTTS_WEIGHTS
) -> dict[str, float]:
    """Metrics by our names: every logged key as it is, and ours with the weight of the loss taken off.

    Args:
        side: `train` or `eval`.
        logged: key as the model logs it (`loss_mel_ce`) -> value.
        named: logged key -> (our name, weight).
    """
    metrics = {f"{side}.{key}": value for key, value in logged.items()}
    for key, (name, weight) in named.items():
        if key in logged:
            metrics[f"{side}.{name}"] = logged[key] / weight
    return metrics
