"""What to do about a verdict: concrete next steps out of the evidence, in the order of the checklist's "tune first"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.gates.sample_advice import what_to_hear, where_best_is_heard
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import median_slope, noise_allowance

if TYPE_CHECKING:
    from xtts_gatekeeper.gates.evaluate import Reason


@dataclass(frozen=True)
class NextStep:
    """One thing to do: a code, a sentence, and the numbers to do it with."""

    code: str
    message: str
    values: dict[str, Any] = field(default_factory=dict)


_OPPOSITE = {"lower_lr": "raise_lr", "raise_lr": "lower_lr"}


@dataclass(frozen=True)
class _Case:
    """What the advice can draw on."""

    record: RunRecord
    objective: str
    best: Mapping[str, Any] | None
    latest: Mapping[str, Any] | None

    @property
    def lr(self) -> float | None:
        """The highest learning rate in effect at the end of the latest epoch."""
        epochs = [epoch for epoch in self.record.train_epochs if epoch.lr_end]
        start = self.record.start
        rates = epochs[-1].lr_end if epochs else start.lr if start else []
        return max(rates, default=None) or None  # 0: a warm-up that has not begun says nothing


def next_steps(
    record: RunRecord,
    objective: str,
    reasons: Sequence[Reason],
    best: Mapping[str, Any] | None,
    latest: Mapping[str, Any] | None,
) -> tuple[NextStep, ...]:
    """Next steps for the reasons that failed; each code once, the gravest reason's first.

    Where two reasons want the learning rate changed, the first has its way: it cannot go up and down.
    """
    case = _Case(record, objective, best, latest)
    steps: dict[str, NextStep] = {}
    for reason in reasons:
        if reason.status != "failed":
            continue
        advise = _ADVICE.get(reason.code, _tune_first)
        for step in advise(case, reason):
            if _OPPOSITE.get(step.code) not in steps:
                steps.setdefault(step.code, step)
    return tuple(steps.values())


def _keep_best(case: _Case) -> list[NextStep]:
    best, latest = case.best, case.latest
    if best is None or latest is None or best["value"] is None:
        return []
    file = best["checkpoint"] or f"the weights of step {best['step']}"
    values = {"checkpoint": best["checkpoint"], "step": best["step"], "value": best["value"]}
    if best["step"] == latest["step"]:
        return [NextStep("keep_checkpoint", f"keep {file}: the latest is the best so far", values)]
    message = (
        f"keep and go back to {file} ({case.objective} {best['value']:.4g} at step {best['step']}); "
        f"nothing after it is better"
    )
    return [NextStep("go_back", message, values)]


def _lower_lr(case: _Case, factor: float, why: str) -> list[NextStep]:
    if case.lr is None:
        words = "halve" if factor == 0.5 else f"multiply by {factor:g}"
        return [NextStep("lower_lr", f"{words} the learning rate: {why}", {"factor": factor})]
    lr = float(f"{case.lr * factor:.2g}")
    return [
        NextStep(
            "lower_lr", f"lower the learning rate from {case.lr:.2g} to {lr:g}: {why}", {"lr": case.lr, "lr_next": lr}
        )
    ]


def _raise_lr(case: _Case, factor: float, why: str) -> list[NextStep]:
    if case.lr is None:
        return [
            NextStep("raise_lr", f"raise the learning rate to {factor:g} times what it is: {why}", {"factor": factor})
        ]
    lr = float(f"{case.lr * factor:.2g}")
    return [
        NextStep(
            "raise_lr", f"raise the learning rate from {case.lr:.2g} to {lr:g}: {why}", {"lr": case.lr, "lr_next": lr}
        )
    ]


def _smaller_batch(case: _Case) -> list[NextStep]:
    start = case.record.start
    if start is None or not start.batch_size:
        return [NextStep("smaller_batch", "halve the batch size and double grad_accum_steps")]
    batch, accumulation = start.batch_size, start.grad_accum_steps or 1
    if batch == 1:
        return [
            NextStep("shorter_clips", "the batch is one clip already: leave out the longest clips (max_wav_length)")
        ]
    smaller = max(1, batch // 2)
    more = -(-batch * accumulation // smaller)
    return [
        NextStep(
            "smaller_batch",
            f"lower the batch size from {batch} to {smaller} and raise grad_accum_steps from {accumulation} to {more}: "
            f"the update still sees {smaller * more} clips",
            {"batch_size": batch, "batch_size_next": smaller, "grad_accum_steps_next": more},
        )
    ]


def _train_falls(case: _Case) -> bool | None:
    """Whether the training loss still falls beyond its noise; None when it is not known."""
    points = max((case.record.series(name) for name in ("train.objective", "train.total")), key=len)
    if len(points) < 3:
        return None
    values = points.values[-5:]
    return median_slope(values) * (len(values) - 1) < -noise_allowance(points.values, 0.01, values)


def _overfitted(case: _Case, reason: Reason) -> list[NextStep]:
    steps = _keep_best(case) + _lower_lr(case, 0.5, "it learns its clips by heart")
    clips = case.record.start.train_clips if case.record.start else None
    have = f" ({clips} now)" if clips else ""
    return [*steps, NextStep("more_data", f"add clips{have}, or stop here: more epochs on the same ones will not help")]


def _worsened(case: _Case, reason: Reason) -> list[NextStep]:
    metric = reason.evidence.get("metric", "")
    if str(metric).startswith("sample."):
        return _listen(case, reason)
    if metric not in ("", case.objective):
        return _auxiliary(case, reason)
    if _train_falls(case):
        return _overfitted(case, reason)
    return _keep_best(case) + _lower_lr(case, 0.5, "the evaluations have become worse with it")


def _auxiliary(case: _Case, reason: Reason) -> list[NextStep]:
    metric = str(reason.evidence.get("metric", ""))
    look = {
        "dur": ("check_alignment", "check the duration alignment of the clips (cut ends, silence, wrong transcripts)"),
        "pitch": ("check_pitch", "check the extracted pitch (octave errors, unvoiced clips) and its normalisation"),
        "energy": ("check_energy", "check the clips' levels: energy drifts where they differ"),
        "stop": ("check_endings", "check the ends of the clips: trailing silence and cut words teach wrong stopping"),
        "text": (
            "check_transcripts",
            "check transcripts and language: text CE rises where the words are not those spoken",
        ),
    }
    for word, (code, message) in look.items():
        if word in metric:
            return [NextStep(code, message, {"metric": metric})]
    return _tune_first(case, reason)


def _check_clips(case: _Case, reason: Reason) -> NextStep:
    """The clips that were suspected most often; where none was, those around the step."""
    suspects = Counter(file for batch in case.record.bad_batches for file in batch.suspects)
    if suspects:
        named = [file for file, _ in suspects.most_common(3)]
        more = f" and {len(suspects) - 3} more" if len(suspects) > 3 else ""
        said = f"look at {', '.join(named)}{more}: empty, damaged, clipped or mislabelled"
        return NextStep("check_clips", said, {"files": [file for file, _ in suspects.most_common()]})
    step = reason.evidence.get("step")
    around = f" around step {step}" if step is not None else ""
    said = f"look at the clips of the batches{around}: empty, clipped or mislabelled ones"
    return NextStep("check_clips", said, {"step": step})


def _exploding(case: _Case, reason: Reason) -> list[NextStep]:
    steps = [_check_clips(case, reason), NextStep("clip_gradients", "set grad_clip to 1.0 if it is higher or 0")]
    if "norm" in reason.evidence:
        steps += _lower_lr(case, 0.5, "the gradients grow with it")
    return steps


def _leaking(case: _Case, reason: Reason) -> list[NextStep]:
    said = "restart the process before it runs out (continue_path loses nothing), and look for what keeps growing"
    return [NextStep("restart", said)]


def _diverged(case: _Case, reason: Reason) -> list[NextStep]:
    return [
        *_keep_best(case),
        *_lower_lr(case, 0.3, "losses have run away"),
        _check_clips(case, reason),
        NextStep("check_precision", "train in float32 and with grad_clip 1.0 until the cause is found"),
    ]


def _flat(case: _Case, reason: Reason) -> list[NextStep]:
    """No more gain. Report and checklist: a lower rate from the best checkpoint, or be content."""
    steps = _keep_best(case)
    if _train_falls(case) is False and case.best is not None and case.best["step"] == (case.latest or {}).get("step"):
        steps += _raise_lr(case, 2.0, "train and eval losses both stand still")
    else:
        steps += _lower_lr(case, 0.5, "a finer phase from the best checkpoint may still gain a little")
    if reason.outcome == "stop":
        steps = [*_hear_best(case), *steps]
    return [*steps, NextStep("listen", "listen to the best checkpoint's samples: it may be good enough")]


def _no_gain(case: _Case, reason: Reason) -> list[NextStep]:
    if str(reason.evidence.get("metric", "")).startswith("sample."):
        return _listen(case, reason)
    falls = _train_falls(case)
    if falls:
        return _overfitted(case, reason)
    if reason.evidence.get("gain", 0.0) < -0.01:
        return _worsened(case, reason)
    if falls is False:
        return [*_raise_lr(case, 3.0, "neither train nor eval loss moves"), *_data(case)]
    return _tune_first(case, reason)


def _data(case: _Case) -> list[NextStep]:
    return [NextStep("filter_data", "filter the data: audit the clips, check transcripts and duration alignment")]


def _trend(case: _Case, reason: Reason) -> list[NextStep]:
    if str(reason.evidence.get("metric", "")).startswith("sample."):
        return _listen(case, reason)
    if str(reason.evidence.get("metric", "")).startswith("eval."):
        return _worsened(case, reason) if reason.evidence.get("change", 0.0) > 0 else _flat(case, reason)
    return _lower_lr(case, 0.5, "the training loss rises with it") + _data(case)


def _spiked(case: _Case, reason: Reason) -> list[NextStep]:
    step = reason.evidence.get("step")
    return [
        NextStep("check_clips", f"look at the clips trained on before step {step}", {"step": step}),
        NextStep("clip_gradients", "set grad_clip to 1.0 if it is higher or 0"),
    ]


def _memory(case: _Case, reason: Reason) -> list[NextStep]:
    return _smaller_batch(case)


def _checkpoint(case: _Case, reason: Reason) -> list[NextStep]:
    path = reason.evidence.get("path")
    return [NextStep("check_disk", f"free disk space and save again: {path} cannot be resumed from", {"path": path})]


def _rate(case: _Case, reason: Reason) -> list[NextStep]:
    return [NextStep("set_lr", "give the rate as a phase (gatekeeper.phases): continue_path restores the old one")]


def _slow(case: _Case, reason: Reason) -> list[NextStep]:
    evidence = reason.evidence
    faster = NextStep("faster", "use a larger batch, mixed precision, more loader workers, or a faster device")
    epochs = int(evidence["max_hours"] * 3600 / evidence["seconds_per_epoch"])
    if epochs == 0:
        return [faster]
    said = f"plan {epochs} epochs, which fit, instead of {evidence['epochs']}"
    return [NextStep("fewer_epochs", said, {"epochs": epochs}), faster]


def _not_comparable(case: _Case, reason: Reason) -> list[NextStep]:
    return [
        NextStep(
            "fix_eval_set", "keep one eval set for the whole run; do not compare with the values before the change"
        )
    ]


def _leak(case: _Case, reason: Reason) -> list[NextStep]:
    clips = reason.evidence.get("clips")
    return [
        NextStep("split_data", f"take the {clips} eval clips out of the training set and start again", {"clips": clips})
    ]


def _reached(case: _Case, reason: Reason) -> list[NextStep]:
    said = "the goal is reached: compare samples, then deploy"
    return [*_hear_best(case), *_keep_best(case), NextStep("listen", said)]


def _hear_best(case: _Case) -> list[NextStep]:
    """The report's first step: a model is judged by what it says, not by its loss. Only XTTS can be asked to speak."""
    best = case.best
    if best is None or not best["checkpoint"] or case.record.model.name != "XTTS":
        return []
    said, values = where_best_is_heard(case.record, best["step"], best["checkpoint"])
    return [NextStep("sample_best", said, values)]


def _listen(case: _Case, reason: Reason) -> list[NextStep]:
    if reason.evidence.get("metric") == "sample.other_languages":
        return [_forgetting()]
    said, values = what_to_hear(case.record)
    return [*_keep_best(case), NextStep("listen", said, values)]


def _forgetting() -> NextStep:
    said = (
        "if the other languages are still needed, mix clips of them into the training set or lower the rate; else "
        "leave this rule out"
    )
    return NextStep("mix_languages", said)


def _limit(case: _Case, reason: Reason) -> list[NextStep]:
    heard = str(reason.evidence.get("metric", "")).startswith("sample.")
    return _listen(case, reason) if heard else _tune_first(case, reason)


def _disagree(case: _Case, reason: Reason) -> list[NextStep]:
    said, values = what_to_hear(case.record)
    lower = _lower_lr(case, 0.5, "the loss falls and the voice suffers")
    return [NextStep("listen", said, values), *lower, *_data(case)]


def _tune_first(case: _Case, reason: Reason) -> list[NextStep]:
    """The checklist's list."""
    return _smaller_batch(case) + _lower_lr(case, 0.5, "try the lower bound of the schedule") + _data(case)


_ADVICE: dict[str, Callable[[_Case, Any], list[NextStep]]] = {
    "finite": _diverged,
    "nan_repeated": _diverged,
    "divergence": _diverged,
    "not_worsening": _worsened,
    "overfit": _overfitted,
    "plateau": _flat,
    "slowing": _flat,
    "improved": _no_gain,
    "trend": _trend,
    "not_regressed": _listen,
    "ears_agree": _disagree,
    "threshold": _limit,
    "spike": _spiked,
    "target": _reached,
    "gradients": _exploding,
    "memory": _memory,
    "memory_growth": _leaking,
    "out_of_memory": _memory,
    "checkpoint_intact": _checkpoint,
    "learning_rate": _rate,
    "runtime": _slow,
    "comparable": _not_comparable,
    "no_leak": _leak,
}
