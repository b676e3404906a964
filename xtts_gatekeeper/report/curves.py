"""The curves of a run as plain data: the report and the dashboard draw the same. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record import Evaluation, RunRecord, SampleScore, TrainEpoch
from xtts_gatekeeper.record.events import LearningRateCheck
from xtts_gatekeeper.record.run import LISTENERS, scores_on_line
from xtts_gatekeeper.report.lines import Kind, Line, line_of, no_numbers, points_of, wide, with_points
from xtts_gatekeeper.samples.score import ROWS

#: What a logged name is called where people read it; others keep their own.
_TITLES = {"mel_ce": "Mel CE", "text_ce": "Text CE", "loss_text_ce": "Text CE (weighted)", "loss": "Total loss"}


@dataclass(frozen=True)
class Panel:
    """One diagram.

    `unit` is that of its values, empty for a loss; `log` whether a logarithmic scale shows more of it; `note` one or
    two sentences on what is seen, or empty.
    """

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    log: bool = False
    note: str = ""


def curves(record: RunRecord, policy: Policy) -> list[Panel]:
    """The diagrams that a run has values for, the most telling first.

    Keys: `objective`, `text`, `total`, `gap`, `lr`, `gradients`, `memory`, `speed`, `audio`, `waiting`, `score`,
    `rows`, `faults`.

    Args:
        record: of any source.
        policy: names the objective and its target.
    """
    record = record.naming(policy.names)
    objective = record.resolve(policy.objective) or ""
    name = objective.partition(".")[2]
    train = f"train.{name}"
    if train not in record.metrics:
        train = record.resolve("train.mel") or ""
    pairs = [("objective", objective, train)]
    pairs += [(role, record.resolve(f"eval.{role}") or "", record.resolve(f"train.{role}") or "") for role in _LOSSES]
    panels = []
    shown: set[str] = set()
    for key, evaluated, trained in pairs:
        if not {evaluated, trained} - shown - {""}:
            continue  # GlowTTS and others: the objective is the total
        shown |= {evaluated, trained}
        panels.append(_losses(record, policy, key, evaluated, trained))
    panels += [_gap(record, objective, train), _rates(record), *_monitors(record), *_samples(record)]
    return [panel for panel in panels if any(math.isfinite(v) for line in panel.lines for v in line.values)]


#: Roles beside the objective that have a diagram of their own.
_LOSSES = ("text", "total")


def title_of(metric: str) -> str:
    """A metric (`eval.mel_ce`) as a person calls it, without its side."""
    name = metric.partition(".")[2]
    return _TITLES.get(name, name)


# Losses


def _losses(record: RunRecord, policy: Policy, key: str, evaluated: str, trained: str) -> Panel:
    lines = [*_train_lines(record, trained), *_eval_lines(record, evaluated)]
    title = title_of(evaluated or trained)
    if key == "objective":
        target = policy.target_in(record)
        at = [step for line in lines for step in line.steps]
        if target is not None and at:
            ends = (min(at), max(at))
            lines.append(Line(f"Target {target.value:g}", "target", ends, (target.value, target.value)))
        title += " (the objective)"
    if evaluated and trained and evaluated.partition(".")[2] != trained.partition(".")[2]:
        title += f", train: {title_of(trained)}"
    return Panel(key, title, "", tuple(lines), log=wide(lines), note=no_numbers(lines))


def _eval_lines(record: RunRecord, metric: str) -> list[Line]:
    return _in_segments(record, "Eval", lambda evaluation: evaluation.metrics.get(metric))


def _in_segments(record: RunRecord, name: str, value: Callable[[Evaluation], float | None]) -> list[Line]:
    """A line a segment, and one for each stretch that was taken back."""
    lines = []
    for number, segment in enumerate(record.segments):
        named = name if number == 0 else f"{name}, segment {number + 1}"
        lines.append(line_of(named, "eval", points_of(segment.evaluations, value), segment=number))
    stretches = _taken_back(record, Evaluation, record.evaluations)
    lines += [line_of(f"{name}, taken back", "eval", points_of(part, value), abandoned=True) for part in stretches]
    return [line for line in lines if len(line)]


def _train_lines(record: RunRecord, metric: str) -> list[Line]:
    def value(epoch: TrainEpoch) -> float | None:
        return epoch.metrics.get(metric)

    stretches = _taken_back(record, TrainEpoch, record.train_epochs)
    lines = [line_of("Train", "train", points_of(record.train_epochs, value))]
    lines += [line_of("Train, taken back", "train", points_of(part, value), abandoned=True) for part in stretches]
    return [line for line in lines if len(line)]


def _taken_back(record: RunRecord, kind: type[Any], kept: Sequence[Any]) -> list[list[Any]]:
    """The stretches of events of a kind that are on no line in use any more."""
    known = {id(event) for event in kept}
    events = [event for event in record.events if isinstance(event, kind)]
    return [list(part) for used, part in groupby(events, lambda event: id(event) in known) if not used]


def _gap(record: RunRecord, evaluated: str, trained: str) -> Panel:
    name = evaluated.partition(".")[2]
    epochs = {epoch.epoch: epoch.metrics.get(trained) for epoch in record.train_epochs}

    def value(evaluation: Evaluation) -> float | None:
        if name in evaluation.gap:
            return evaluation.gap[name]
        # Stock logs tell it at the end of an epoch only, where both have been printed.
        now, then = evaluation.metrics.get(evaluated), epochs.get(evaluation.epoch)
        same = trained.partition(".")[2] == name
        return None if evaluation.mid_epoch or not same or now is None or then is None else now - then

    note = "How far the evaluation lies above the training since its epoch began. A gap that grows is overfitting."
    lines = _in_segments(record, "Gap", value)
    return Panel("gap", f"Gap of {title_of(evaluated)}, eval above train", "", tuple(lines), note=note)


# What the monitors measured


def _rates(record: RunRecord) -> Panel:
    """The highest rate among the parameter groups: at the first update after a start or a switch, and after epochs."""
    known = {id(epoch) for epoch in record.train_epochs}
    in_effect: list[tuple[int, float]] = []
    planned: list[tuple[int, float]] = []
    for event in record.events:
        if isinstance(event, TrainEpoch) and id(event) in known and event.lr_end:
            in_effect.append((event.step, max(event.lr_end)))
        elif isinstance(event, LearningRateCheck):
            planned.append((event.step, event.planned))
            if event.in_effect:
                in_effect.append((event.step, max(event.in_effect)))
    lines = [line_of("In effect", "lr", in_effect), line_of("Planned", "planned", planned)]
    note = "Planned: what phases or scheduler ask for where it was checked." if planned else ""
    return Panel("lr", "Learning rate", "", tuple(line for line in lines if len(line)), log=wide(lines), note=note)


def _monitors(record: RunRecord) -> list[Panel]:
    epochs = record.train_epochs
    norms = [
        line_of("Median", "middle", points_of(epochs, lambda e: e.gradients.get("norm_median"))),
        line_of("Highest", "highest", points_of(epochs, lambda e: e.gradients.get("norm_max"))),
    ]
    lost = sum(int(epoch.gradients.get("nonfinite_updates") or 0) for epoch in epochs)
    note = "Before clipping, of the updates of each epoch." + (f" {lost} updates held NaN or infinity." if lost else "")
    panels = [Panel("gradients", "Gradient norm", "", with_points(norms), log=wide(norms), note=note)]
    panels.append(_memory(epochs))
    speed = [line_of("Steps", "middle", points_of(epochs, _steps_per_second))]
    audio = [line_of("Audio", "middle", points_of(epochs, lambda e: e.throughput.get("audio_seconds_per_second")))]
    waited = [line_of("Waiting", "middle", points_of(epochs, lambda e: _percent(e.throughput.get("data_wait_share"))))]
    return [
        *panels,
        Panel("speed", "Throughput", "steps a second", with_points(speed)),
        Panel("audio", "Audio trained on", "seconds a second", with_points(audio)),
        Panel("waiting", "Waiting for data", "% of the time", with_points(waited)),
    ]


def _memory(epochs: Sequence[TrainEpoch]) -> Panel:
    at_end = points_of(epochs, lambda e: _gigabytes(e.memory.get("own_bytes")))
    peaks = points_of(epochs, lambda e: _gigabytes(e.memory.get("peak_own_bytes")))
    lines = [line_of("At the end of the epoch", "middle", at_end), line_of("Peak", "highest", peaks)]
    total = next((e.memory["total_bytes"] for e in reversed(epochs) if e.memory.get("total_bytes")), None)
    if with_points(lines):
        device = f" The device has {_gigabytes(total):.3g} GB." if total else ""
        return Panel("memory", "Memory of this process", "GB", with_points(lines), note=device.strip())
    used = [line_of("In use", "middle", points_of(epochs, lambda e: _percent(e.memory_used)))]
    return Panel("memory", "Memory in use", "% of the device", with_points(used))


def _steps_per_second(epoch: TrainEpoch) -> float | None:
    measured: float | None = epoch.throughput.get("steps_per_second")
    if measured is None and epoch.batches and epoch.seconds:
        return epoch.batches / epoch.seconds
    return measured


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _gigabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e9


# Samples


def _samples(record: RunRecord) -> list[Panel]:
    """Scores of the prompts in use; those of other prompts, and of other judges, are lines of their own."""
    found = scores_on_line(record.events)
    kept: dict[tuple[str, str | None], dict[int, SampleScore]] = {}
    for score in found:
        kept.setdefault((score.by, score.prompts), {})[score.step] = score  # judged twice: the last counts
    totals, faults = [], []
    for (by, prompts), by_step in kept.items():
        other = ", other prompts" if prompts != found[-1].prompts else ""
        kind: Kind = "listeners" if by == LISTENERS else "measures"
        scores = list(by_step.values())
        totals.append(_marked(by.capitalize() + other, kind, scores, "sample.score"))
        faults.append(_marked(by.capitalize() + other, kind, scores, "sample.faults", 100.0))
    comparable = record.sample_scores
    rows = [_marked(row.capitalize(), "row", comparable, f"sample.{row}") for row in ROWS]
    others = _marked("Other languages", "row", comparable, "sample.other_languages")
    by = f"As {comparable[-1].by} judge them." if comparable else ""
    return [
        Panel("score", "Sample score", "of 25", with_points(totals)),
        Panel("rows", "Rows of the rubric", "of 5", with_points([*rows, others]), note=by),
        Panel("faults", "Samples with a fault", "%", with_points(faults)),
    ]


def _marked(name: str, kind: Kind, scores: Sequence[SampleScore], metric: str, factor: float = 1.0) -> Line:
    line = line_of(name, kind, points_of(scores, lambda score: score.metrics.get(metric)), factor=factor)
    between: Mapping[int, Sequence[float]] = {
        score.step: score.intervals[metric] for score in scores if len(score.intervals.get(metric, ())) == 2
    }
    if not between:
        return line
    ends = [between.get(step, (math.nan, math.nan)) for step in line.steps]
    low, high = (tuple(factor * end[side] for end in ends) for side in (0, 1))
    return Line(line.name, line.kind, line.steps, line.values, low=low, high=high)
