"""Which checkpoint files may go. Pure: the keeper and the pruner do the deleting.

A retention policy is a small frozen dataclass that names the files it wants to keep and says why; policies are combined
with `AllOf` and `AnyOf`. Whatever the policy, `retain` keeps the newest file that training can go on from and the best
weights of every set of comparable evaluations. In settings and on the command line a policy is a list of terms:

    latest:2              the two newest resumable files
    best:1                the best by the objective; best:3:eval.text_ce by another metric
    every:5000            the first file at or after each multiple of 5,000 steps
    gate, gate:A          files at which a gate was decided, or one gate by its name
    every:1000&best:3     both must want it
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.record.models import HIGHER_IS_BETTER

#: What is kept when nothing else is asked for.
DEFAULT = ("latest:1", "best:1")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint file that is there, as retention sees it. A list of them is in the order of writing.

    `number` is the one in its name, by which stock code goes, and `step` the micro-batches that its weights hold.
    `metrics` are those of an evaluation of just these weights, empty where they were never evaluated; they may be
    compared with those of files of the same `segment`. `gates` are the gates decided by that evaluation. `spare`:
    written because the disk had no room for a resumable file. `origin`: run_name and output_path of the settings that
    lie in the file, where it was looked into.
    """

    path: str
    step: int
    number: int | None = None
    bytes: int = 0
    resumable: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    segment: str | None = None
    gates: tuple[str, ...] = ()
    spare: bool = False
    origin: tuple[str, ...] | None = None

    def loss(self, metric: str) -> float:
        """The value of `metric` with the sign that makes lower better; infinite where there is none."""
        value = self.metrics.get(metric, math.nan)
        if not math.isfinite(value):
            return math.inf
        return -value if metric in HIGHER_IS_BETTER else value


class Policy(Protocol):
    """Names the files it wants to keep."""

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """The reason for every file to keep, by its path."""
        ...

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """How many resumable files and how many of weights only it keeps in a run of so many steps and gates."""
        ...


@dataclass(frozen=True)
class LatestN:
    """The newest `n` files that training can go on from."""

    n: int

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`."""
        resumable = [file for file in files if file.resumable][-self.n :]
        return {file.path: "latest" if file is resumable[-1] else f"one of the latest {self.n}" for file in resumable}

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        return self.n, 0


@dataclass(frozen=True)
class BestN:
    """The `n` best files by `metric`, of each segment on its own; of equal ones the older.

    `metric` None is the objective, which `retain` knows.
    """

    n: int
    metric: str | None = None

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`; nothing without a metric."""
        metric = self.metric
        if metric is None:
            return {}
        kept = {}
        for segment in {file.segment: None for file in files}:
            measured = [f for f in files if f.segment == segment and math.isfinite(f.loss(metric))]
            # Of two files of the same weights the one without the optimizer will do.
            ranked = sorted(measured, key=lambda file: (file.loss(metric), file.resumable))
            weights: set[tuple[int, float]] = set()
            for file in ranked:
                same = (file.step, file.loss(metric))
                if same in weights:
                    continue
                if len(weights) == self.n:
                    break
                weights.add(same)
                place = "best" if len(weights) == 1 else f"one of the best {self.n}"
                kept[file.path] = f"{place} by {metric} ({file.metrics[metric]:.4f})"
        return kept

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        return 0, self.n


@dataclass(frozen=True)
class EveryNSteps:
    """The first resumable file at or after each multiple of `n` steps: saves need not fall on the multiples."""

    n: int

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`."""
        first: dict[int, Candidate] = {}
        for file in files:
            multiple = file.step // self.n * self.n
            if file.resumable and multiple and (multiple not in first or file.step < first[multiple].step):
                first[multiple] = file
        return {file.path: f"first at or after step {multiple}" for multiple, file in first.items()}

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        return steps // self.n, 0


@dataclass(frozen=True)
class AtGate:
    """The file by which a gate was decided last, resumable if possible; of one gate when `name` says which.

    A gate stays due until it is passed, so it may be decided at several evaluations.
    """

    name: str | None = None

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`."""
        kept: dict[str, Candidate] = {}
        for file in files:
            for gate in file.gates:
                same_weights = gate in kept and kept[gate].step == file.step
                if self.name in (None, gate) and (file.resumable or not same_weights):
                    kept[gate] = file
        return {file.path: f"{gate} was decided by it" for gate, file in kept.items()}

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        return (gates if self.name is None else 1), 0


@dataclass(frozen=True)
class AllOf:
    """What every part wants to keep."""

    parts: tuple[Policy, ...]

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`."""
        kept = [part.keep(files) for part in self.parts]
        return {path: " and ".join(k[path] for k in kept) for path in kept[0] if all(path in k for k in kept)}

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        return min((part.at_most(steps, gates) for part in self.parts), key=sum)


@dataclass(frozen=True)
class AnyOf:
    """What any part wants to keep."""

    parts: tuple[Policy, ...]

    def keep(self, files: Sequence[Candidate]) -> dict[str, str]:
        """See `Policy`."""
        kept: dict[str, str] = {}
        for part in self.parts:
            for path, why in part.keep(files).items():
                kept[path] = f"{kept[path]}, {why}" if path in kept else why
        return kept

    def at_most(self, steps: int, gates: int) -> tuple[int, int]:
        """See `Policy`."""
        counts = [part.at_most(steps, gates) for part in self.parts]
        return sum(count[0] for count in counts), sum(count[1] for count in counts)


@dataclass(frozen=True)
class Retention:
    """Files to keep and files to drop, each with the reason. `over_budget` are bytes that the floor has too many."""

    keep: dict[str, str]
    drop: dict[str, str]
    over_budget: int = 0


def retain(files: Sequence[Candidate], policy: Policy, objective: str, budget: int | None = None) -> Retention:
    """Decide which of a run's files stay.

    Two kinds stay whatever the policy says, the floor: the newest resumable file, and the best by the objective of each
    segment. The newest is the last written, not the one of the highest step: after going back to an earlier checkpoint
    the higher steps are those of an abandoned stretch. The newest weights saved for want of room stay until there is
    something resumable of at least their step.

    Args:
        files: the files that are there and whole, in the order of writing.
        policy: what to keep beyond the floor.
        objective: the metric of the best.
        budget: bytes that the run's files may have; files beyond the floor go, the oldest first, until they do.
    """
    policy = _by_objective(policy, objective)
    newest = max((i for i, file in enumerate(files) if file.resumable), default=-1)
    floor = AnyOf((LatestN(1), BestN(1, objective))).keep(files)
    spare = [file for file in files if file.spare][-1:]
    reached = max((file.step for file in files if file.resumable), default=-1)
    floor |= {file.path: "saved for want of room" for file in spare if file.step > reached}
    keep = AnyOf((policy,)).keep(files) | floor
    ranked = sorted(files, key=lambda file: (file.loss(objective), file.resumable))
    best = {file.segment: file for file in reversed(ranked)}
    newer = f"{files[newest].path} is newer" if newest >= 0 else "nothing asks for it"
    drop = {f.path: _why_dropped(f, best[f.segment], objective) or newer for f in files if f.path not in keep}
    size = {file.path: file.bytes for file in files}
    total = sum(size[path] for path in keep)
    if budget is not None:
        for file in files:
            if total > budget and file.path in keep and file.path not in floor:
                total -= file.bytes
                drop[file.path] = f"the disk budget of {budget / 1e9:.2f} GB ({keep.pop(file.path)})"
    order = {file.path: i for i, file in enumerate(files)}
    return Retention(
        dict(sorted(keep.items(), key=lambda item: order[item[0]])),
        dict(sorted(drop.items(), key=lambda item: order[item[0]])),
        max(0, total - budget) if budget is not None else 0,
    )


def _by_objective(policy: Policy, objective: str) -> Policy:
    """The policy with the objective's name put in where it means it."""
    if isinstance(policy, BestN):
        return BestN(policy.n, policy.metric or objective)
    if isinstance(policy, AllOf | AnyOf):
        return type(policy)(tuple(_by_objective(part, objective) for part in policy.parts))
    return policy


def named_metrics(policy: Policy) -> set[str]:
    """The metrics that a policy names itself."""
    if isinstance(policy, AllOf | AnyOf):
        return {metric for part in policy.parts for metric in named_metrics(part)}
    return {policy.metric} if isinstance(policy, BestN) and policy.metric is not None else set()


def _why_dropped(file: Candidate, best: Candidate, objective: str) -> str:
    """What the best of its segment has before it; empty where the file was not evaluated."""
    if not math.isfinite(file.loss(objective)):
        return ""
    if best.loss(objective) == file.loss(objective):
        return f"{best.path} is as good ({best.metrics[objective]:.4f})"
    return f"{best.path} is better ({best.metrics[objective]:.4f}, this one {file.metrics[objective]:.4f})"


def best_candidate(files: Sequence[Candidate], objective: str) -> Candidate | None:
    """The best file by the objective in the segment that was evaluated last; None where nothing was."""
    measured = [file for file in files if math.isfinite(file.loss(objective))]
    if not measured:
        return None
    best = BestN(1, objective).keep([file for file in measured if file.segment == measured[-1].segment])
    return next(file for file in measured if file.path in best)


_TERM = re.compile(r"(?P<kind>[a-z_]+)(?::(?P<first>[^:]+))?(?::(?P<second>[^:]+))?")


def parse_policy(terms: Sequence[str]) -> Policy:
    """The policy that a list of terms means (see the module): any of them, `&` joining those of which all must agree.

    Raises:
        UserError: naming the term.
    """
    return AnyOf(tuple(_parse(term) for term in terms))


def split_terms(text: str) -> list[str]:
    """The terms of one text, separated by commas."""
    return [term.strip() for term in text.split(",") if term.strip()]


def _parse(text: str) -> Policy:
    parts = tuple(_parse_one(part.strip(), text) for part in text.split("&"))
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _parse_one(text: str, whole: str) -> Policy:
    match = _TERM.fullmatch(text)
    if match is None:
        raise UserError(f"{whole!r} is no retention term: write latest:N, best:N[:METRIC], every:STEPS or gate[:NAME].")
    kind, first, second = match["kind"], match["first"], match["second"]
    if second is not None and kind != "best":
        raise UserError(f"retention term {whole!r} has one part too many: {second!r}.")
    if kind == "gate":
        return AtGate(first)
    if kind == "latest":
        return LatestN(_count(first, whole, 1))
    if kind == "best":
        return BestN(_count(first, whole, 1), second)
    if kind == "every":
        return EveryNSteps(_count(first, whole))
    raise UserError(f"unknown retention term {whole!r}, {nearest(kind, ('latest', 'best', 'every', 'gate'))}")


def _count(text: str | None, whole: str, default: int | None = None) -> int:
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < 1:
        raise UserError(f"retention term {whole!r} needs a number of 1 or more after its first colon.")
    return int(text)
