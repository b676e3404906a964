"""`evaluate(record, policy)`: the verdict. Pure, no I/O, the same live and offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from xtts_gatekeeper.gates.policy import Gate, Outcome, Policy, PolicyRule
from xtts_gatekeeper.gates.rules import Status
from xtts_gatekeeper.record import Checkpoint, Evaluation, RunRecord
from xtts_gatekeeper.record.run import best_of

VerdictName = Literal["continue", "tune", "stop", "undecided"]

#: Exit code of the `gate` verb for each verdict.
EXIT_CODES: dict[VerdictName, int] = {"continue": 0, "tune": 10, "stop": 20, "undecided": 30}

_SEVERITY: dict[Outcome, int] = {"continue": 0, "tune": 1, "stop": 2}


@dataclass(frozen=True)
class Reason:
    """Why: the rule's name as `code`, one sentence, the numbers, what follows, and the gate that asked, if any."""

    code: str
    message: str
    evidence: dict[str, Any]
    status: Status
    outcome: Outcome
    gate: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do, why, and what it was judged on.

    `gates` names the gates that came due at the judged evaluation. `best` and `latest` are dicts with `step`,
    `epoch`, `epochs_done`, `value` (of the objective) and `checkpoint` (a file name, or None), over the latest segment.
    """

    verdict: VerdictName
    reasons: tuple[Reason, ...]
    objective: str
    evaluations: int
    best: dict[str, Any] | None
    latest: dict[str, Any] | None
    segments: list[dict[str, Any]]
    gates: list[str]
    policy: str
    policy_hash: str
    source: str
    projection: None = None

    def to_dict(self) -> dict[str, Any]:
        """The verdict as `gate --json` prints it."""
        return asdict(self)

    @property
    def exit_code(self) -> int:
        """The exit code of the `gate` verb."""
        return EXIT_CODES[self.verdict]


def due_gates(record: RunRecord, policy: Policy) -> list[Gate]:
    """The gates that are due at the last evaluation.

    A gate comes due at the first evaluation with so many epochs finished, and stays due until all its rules have the
    points they need.
    """
    *earlier, last = record.evaluations
    done = record.epochs_done(last)

    def decided(gate: Gate) -> bool:
        return any(
            record.epochs_done(evaluation) >= gate.after_epochs and not _lacks_points(gate, record.upto(evaluation))
            for evaluation in earlier
        )

    return [gate for gate in policy.gates if done >= gate.after_epochs and not decided(gate)]


def _lacks_points(gate: Gate, record: RunRecord) -> bool:
    return any(due.rule.check(record).status == "too_early" for due in gate.rules)


def evaluate(record: RunRecord, policy: Policy, at: Evaluation | None = None) -> Verdict:
    """Judge an evaluation of `record` by the rules of `policy` that are due at it, as the live gate judged it then.

    The worst outcome among the failed rules wins. Without a failure the verdict is `undecided` while the latest
    segment has fewer evaluations than the policy's minimum, or while a rule of a due gate has too few points.

    Args:
        record: the run so far; what happened after the judged evaluation is not looked at, except to name the files
            in which the best and the latest weights can be found now.
        policy: the rules.
        at: one of `record.evaluations`; by default the last.
    """
    files = sorted(record.files, key=lambda file: file.kind != "best")
    if record.evaluations:
        record = record.upto(at or record.evaluations[-1])
    comparable = record.segments[-1].evaluations if record.segments else ()
    measured = [e for e in comparable if policy.objective in e.metrics]
    gates = due_gates(record, policy) if record.evaluations else []
    reasons = [_reason(rule, record) for rule in policy.health] if record.evaluations else []
    reasons += [_reason(rule, record, gate.name) for gate in gates for rule in gate.rules]
    failed = [reason for reason in reasons if reason.outcome != "continue"]
    verdict: VerdictName
    if failed:
        verdict = max(failed, key=lambda reason: _SEVERITY[reason.outcome]).outcome
    elif len(measured) < policy.minimum_evaluations:
        verdict = "undecided"
        reasons.append(_too_few(len(measured), policy))
    elif any(reason.status == "too_early" and reason.gate for reason in reasons):
        verdict = "undecided"
    else:
        verdict = "continue"
    return Verdict(
        verdict=verdict,
        reasons=tuple(sorted(reasons, key=lambda reason: _rank(reason, verdict))),
        objective=policy.objective,
        evaluations=len(record.evaluations),
        best=_point(record, files, best_of(comparable, policy.objective), policy),
        latest=_point(record, files, comparable[-1] if comparable else None, policy),
        segments=[
            {
                "eval_set": segment.eval_set,
                "evaluations": len(segment.evaluations),
                "first_step": segment.evaluations[0].step,
                "last_step": segment.evaluations[-1].step,
            }
            for segment in record.segments
        ],
        gates=[gate.name for gate in gates],
        policy=policy.name,
        policy_hash=policy.hash,
        source=record.source,
    )


def _reason(due: PolicyRule, record: RunRecord, gate: str | None = None) -> Reason:
    finding = due.rule.check(record)
    outcome = due.on_fail if finding.status == "failed" else "continue"
    return Reason(due.name, finding.message, finding.evidence, finding.status, outcome, gate)


def _too_few(have: int, policy: Policy) -> Reason:
    return Reason(
        code="too_few_evaluations",
        message=f"{have} comparable evaluations of {policy.objective} so far, the policy needs "
        f"{policy.minimum_evaluations}",
        evidence={"have": have, "need": policy.minimum_evaluations},
        status="too_early",
        outcome="continue",
    )


def _rank(reason: Reason, verdict: VerdictName) -> int:
    """What decided comes first: the worst failures, or for `undecided` what is missing; then what passed."""
    if reason.status == "failed":
        return -_SEVERITY[reason.outcome]
    if reason.status == "passed":
        return 1
    return 0 if verdict == "undecided" else 2


def _point(
    record: RunRecord, files: Sequence[Checkpoint], evaluation: Evaluation | None, policy: Policy
) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {
        "step": evaluation.step,
        "epoch": evaluation.epoch,
        "epochs_done": record.epochs_done(evaluation),
        "value": evaluation.metrics.get(policy.objective),
        # A best file before a latest one of the same step: it is the one that stays.
        "checkpoint": next((file.path for file in files if file.step == evaluation.step), None),
    }
