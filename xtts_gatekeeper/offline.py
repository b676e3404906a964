"""What the offline verbs share: from a path and a policy's name to a record and the rules to judge it by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.gates import Policy, evaluate, load_policy
from xtts_gatekeeper.gates.replay import replay
from xtts_gatekeeper.record import Evaluation, RunRecord
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.sources import Follower, Input, choose_run, evaluation_at, find_input, read_runs


@dataclass(frozen=True)
class Opened:
    """A run that was opened: where it lies, all runs of that source, the one that is meant, and its rules."""

    path: Path
    source: Input
    runs: list[RunRecord]
    record: RunRecord
    policy: Policy


def open_run(path: Path, policy: str | None = None, run: str | None = None) -> Opened:
    """Open what lies at `path`.

    Args:
        path: see `record.sources.find_input`.
        policy: a shipped policy's name or a file; by default the rules that the run was started with, else `checklist`.
        run: which run, where a file holds several; by default the last.

    Raises:
        UserError: nothing to read, no such run, or a policy that cannot be used.
    """
    source = find_input(path)
    runs = read_runs(source)
    logged = {name for record in runs for name in record.metrics}
    rules = load_policy(_policy_name(source, policy), logged | _configured_names(source))
    if rules.metrics and source.kind in ("tensorboard", "table"):
        runs = read_runs(source, rules.metrics)  # its own names say what a tag or a column is
    return Opened(path, source, runs, choose_run(runs, run, path, source.folder), rules)


def _configured_names(source: Input) -> set[str]:
    """The names that the run's own settings (`gatekeeper.metrics`) give to metrics, whether it has logged any yet."""
    if source.folder is None:
        return set()
    try:
        kept = json.loads((source.folder / FOLDER / "config.json").read_text(encoding="utf-8"))
        return {f"{side}.{name}" for name in kept.get("metrics") or () for side in ("eval", "train")}
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _policy_name(source: Input, policy: str | None) -> str | Path:
    kept = source.folder / FOLDER / "policy.yaml" if source.folder is not None else None
    return policy or (kept if kept is not None and kept.is_file() else "checklist")


def gate_document(opened: Opened, at: str | Evaluation | None = None, replayed: bool = False) -> dict[str, Any]:
    """What `gate --json` prints: the verdict, a summary of the source's other runs, and the replay when asked for.

    `run` is the name of the run, as in `runs`; its number from 1 where it has none.
    """
    record, policy = opened.record, opened.policy
    evaluation = evaluation_at(record, at) if isinstance(at, str) else at
    document = evaluate(record, policy, evaluation).to_dict()
    number = next(i for i, run in enumerate(opened.runs, 1) if run is record)
    document["run"] = record.name or str(number)
    document["runs"] = [_summary(run, policy, number) for number, run in enumerate(opened.runs, 1)]
    if replayed:
        document["replay"] = replay(record, policy)
    return document


def _summary(record: RunRecord, policy: Policy, number: int) -> dict[str, Any]:
    verdict = evaluate(record, policy)
    return {
        "run": record.name or str(number),
        "verdict": verdict.verdict,
        "evaluations": verdict.evaluations,
        "best": verdict.best,
        "latest": verdict.latest,
    }


def watch(
    path: Path, policy: str | None = None, run: str | None = None, interval: float = 5.0
) -> Iterator[dict[str, Any]]:
    """`gate_document` for every new evaluation of the run, until it ends or a verdict says `stop`.

    The first document comes at once, whatever the run has by then, and is on its latest evaluation.

    Args:
        path: see `open_run`; the file may still be growing.
        policy: see `open_run`.
        run: see `open_run`.
        interval: seconds between two looks.

    Raises:
        UserError: see `open_run`.
    """
    opened = open_run(path, policy, run)
    follower = Follower(path, opened.policy.metrics)
    seen: int | None = None
    while True:
        runs = follower.poll()
        record = choose_run(runs, run, path, opened.source.folder)
        made = sum(isinstance(event, Evaluation) for event in record.events)
        for evaluation in _new(record, made, seen):
            document = gate_document(Opened(path, opened.source, runs, record, opened.policy), evaluation)
            yield document
            if document["verdict"] == "stop":
                return
        if record.end is not None:
            return
        seen = made
        follower.wait(interval)


def _new(record: RunRecord, made: int, seen: int | None) -> Sequence[Evaluation | None]:
    """The evaluations to judge when the run has `made` of them, those of abandoned stretches included."""
    if seen is None:
        return record.evaluations[-1:] or (None,)
    count = made - seen if made >= seen else made  # fewer: the file was replaced, or another run has begun in it
    return record.evaluations[-count:] if count else ()
