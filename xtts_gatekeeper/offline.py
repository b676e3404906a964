"""What the offline verbs share: from a path and a policy's name to a record and the rules to judge it by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.gates import Policy, evaluate, load_policy
from xtts_gatekeeper.gates.replay import replay
from xtts_gatekeeper.record import RunRecord
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
    rules = load_policy(_policy_name(source, policy), {name for record in runs for name in record.metrics})
    if rules.metrics and source.kind in ("tensorboard", "table"):
        runs = read_runs(source, rules.metrics)  # its own names say what a tag or a column is
    return Opened(path, source, runs, choose_run(runs, run, path), rules)


def _policy_name(source: Input, policy: str | None) -> str | Path:
    kept = source.folder / FOLDER / "policy.yaml" if source.folder is not None else None
    return policy or (kept if kept is not None and kept.is_file() else "checklist")


def gate_document(opened: Opened, at: str | None = None, replayed: bool = False) -> dict[str, Any]:
    """What `gate --json` prints: the verdict, a summary of the source's other runs, and the replay when asked for."""
    record, policy = opened.record, opened.policy
    document = evaluate(record, policy, evaluation_at(record, at) if at else None).to_dict()
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
    """`gate_document` again whenever the run has a new evaluation, until it ends or a verdict says `stop`.

    The first document comes at once, whatever the run has by then.

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
    seen = -1
    while True:
        runs = follower.poll()
        record = choose_run(runs, run, path)
        ended = record.end is not None
        if len(record.evaluations) != seen or ended:
            seen = len(record.evaluations)
            document = gate_document(Opened(path, opened.source, runs, record, opened.policy))
            yield document
            if ended or document["verdict"] == "stop":
                return
        follower.wait(interval)
