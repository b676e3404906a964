"""`evaluate(record, policy)`: the verdict. Pure, no I/O, the same live and offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from xtts_gatekeeper.gates.next_steps import NextStep, next_steps
from xtts_gatekeeper.gates.policy import Gate, Outcome, Policy, PolicyRule
from xtts_gatekeeper.gates.projection import Projection, project
from xtts_gatekeeper.gates.rules import Finding, Rule, Status
from xtts_gatekeeper.gates.rules.base import too_early
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.record import Checkpoint, Evaluation, RunRecord
from xtts_gatekeeper.record.run import Note, best_of

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
    `epoch`, `epochs_done`, `value` (of the objective) and `checkpoint` (a file name, or None), over the latest segment;
    the best over the latest one whose values can be believed (`record.run.Segment`).
    `next_steps` is what a `tune` or `stop` asks for; `projection` the way to the policy's target, None without one;
    `model` the kind of model that the run's metrics show; `notes` what the reader of the source has to say.
    """

    verdict: VerdictName
    reasons: tuple[Reason, ...]
    next_steps: tuple[NextStep, ...]
    objective: str
    evaluations: int
    best: dict[str, Any] | None
    latest: dict[str, Any] | None
    segments: list[dict[str, Any]]
    projection: Projection | None
    gates: list[str]
    policy: str
    policy_hash: str
    source: str
    run: str
    model: str
    notes: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as `gate --json` prints it."""
        return asdict(self)

    @property
    def exit_code(self) -> int:
        """The exit code of the `gate` verb."""
        return EXIT_CODES[self.verdict]


def due_gates(record: RunRecord, policy: Policy) -> list[Gate]:
    """The gates that are due at the last evaluation.

    A gate comes due at the first evaluation at or after its time and stays due until it is passed: until at one
    evaluation all its rules have the points they need (those on the objective at least the policy's minimum) and none
    fails. Who goes on against a `stop` is asked again.
    """
    *earlier, last = record.evaluations

    def passed(gate: Gate) -> bool:
        return any(gate.when.come(record, e) and _passed(gate, record, e, policy) for e in earlier)

    return [gate for gate in policy.gates if gate.when.come(record, last) and not passed(gate)]


def _passed(gate: Gate, record: RunRecord, evaluation: Evaluation, policy: Policy) -> bool:
    """Whether `gate` was passed at `evaluation`; remembered, since every later evaluation asks again."""
    key = (policy.hash, gate.name, id(evaluation))
    if key not in record.memo:
        then = record.upto(evaluation)
        findings = [(due, _find_at_gate(due, then, policy)) for due in gate.rules]
        record.memo[key] = not any(
            finding.status == "too_early" or (finding.status == "failed" and due.on_fail != "continue")
            for due, finding in findings
        )
    return record.memo[key]


def evaluate(record: RunRecord, policy: Policy, at: Evaluation | None = None) -> Verdict:
    """Judge an evaluation of `record` by the rules of `policy` that are due at it, as the live gate judged it then.

    The worst outcome among the failed rules wins. Without a failure the verdict is `undecided` while the latest
    segment has fewer evaluations than the policy's minimum, or while a rule of a due gate has too few points, or while
    a rule with `if_missing: undecided` has nothing to measure by. Where eval clips were trained on, their losses look
    better than the model is: what fails all the same fails, and what passes for them is `undecided`.

    Args:
        record: the run so far; what happened after the judged evaluation is not looked at, except to name the files
            in which the best and the latest weights can be found now.
        policy: the rules.
        at: one of `record.evaluations`; by default the last, and then with what listeners have said after it.
    """
    record = record.naming(policy.names)
    files = record.files
    if record.evaluations:
        record = record.as_heard() if at is None else record.upto(at)
    notes = record.notes + _cannot_judge(record, policy)
    objective = record.resolve(policy.objective) or policy.objective
    comparable = record.segments[-1].evaluations if record.segments else ()
    measured = [e for e in comparable if objective in e.metrics]
    gates = due_gates(record, policy) if record.evaluations else []
    reasons = [_reason(due, _find(due, record), record) for due in policy.health] if record.evaluations else []
    reasons += [
        _reason(due, _find_at_gate(due, record, policy), record, gate.name) for gate in gates for due in gate.rules
    ]
    failed = [reason for reason in reasons if reason.outcome != "continue"]
    verdict: VerdictName
    if failed:
        verdict = max(failed, key=lambda reason: _SEVERITY[reason.outcome]).outcome
    elif len(measured) < policy.minimum_evaluations:
        verdict = "undecided"
        reasons.append(_too_few(record, len(measured), objective, policy.minimum_evaluations))
    elif any(_waited_for(reason) for reason in reasons):
        verdict = "undecided"
    else:
        verdict = "continue"
    reasons.sort(key=lambda reason: _rank(reason, verdict))
    best = _point(record, files, best_of(record.believed, objective), objective, "best")
    latest = _point(record, files, comparable[-1] if comparable else None, objective, "latest")
    target = policy.target_in(record)
    return Verdict(
        verdict=verdict,
        reasons=tuple(reasons),
        next_steps=next_steps(record, objective, reasons, best, latest),
        objective=objective,
        evaluations=len(record.evaluations),
        best=best,
        latest=latest,
        segments=[
            {
                "eval_set": segment.eval_set,
                "evaluations": len(segment.evaluations),
                "first_step": segment.evaluations[0].step,
                "last_step": segment.evaluations[-1].step,
                "why": segment.why,
                "leaked": segment.leaked,
            }
            for segment in record.segments
        ],
        projection=project(record, objective, target.value) if target else None,
        gates=[gate.name for gate in gates],
        policy=policy.name,
        policy_hash=policy.hash,
        source=record.source,
        run=record.name,
        model=record.model.name,
        notes=notes,
    )


def _cannot_judge(record: RunRecord, policy: Policy) -> tuple[Note, ...]:
    """What of the policy this run has nothing to judge by."""
    if not record.metrics:
        return ()
    notes: tuple[Note, ...] = ()
    by_epochs = [gate.name for gate in policy.gates if gate.when.unit == "epochs"]
    if by_epochs and record.evaluations and not record.train_epochs:
        message = f"this source does not tell how many epochs were finished: {', '.join(by_epochs)} cannot come due"
        notes = (Note("epochs_unknown", message),)
    missing = [f"{name} ({said})" for name, said in policy.metrics.items() if record.resolve(name) is None]
    if missing:
        notes += (Note("metric_not_found", f"not in this run: {', '.join(missing)}"),)
    return notes


def _find(due: PolicyRule, record: RunRecord) -> Finding:
    finding = due.rule.check(record)
    if finding.status == "not_measured" and due.if_missing == "undecided":
        return Finding("too_early", finding.message, {**finding.evidence, "measured": False})
    leaked = record.segments[-1].leaked if record.segments else 0
    good_news = finding.status == ("failed" if isinstance(due.rule, Target) else "passed")
    if leaked and good_news and _by_evaluations(due.rule, record):
        clips = f"{leaked} of the eval clips were" if leaked > 1 else "one of the eval clips was"
        message = f"{clips} trained on, so this is not believed: {finding.message}"
        return Finding("too_early", message, {**finding.evidence, "leaked": leaked, "measured": False})
    return finding


def _by_evaluations(rule: Rule, record: RunRecord) -> bool:
    """Whether a rule, or one of those that it is made of, judges by what evaluations measured."""
    if any(_by_evaluations(part, record) for part in getattr(rule, "rules", ())):
        return True
    metric = getattr(rule, "metric", None)
    return metric is not None and (record.resolve(metric) or metric).startswith("eval.")


def _find_at_gate(due: PolicyRule, record: RunRecord, policy: Policy) -> Finding:
    """A gate is asked once: what it says of the objective waits for the policy's minimum, be it good or bad."""
    finding = _find(due, record)
    points = record.series(policy.objective)
    metric = getattr(due.rule, "metric", None)
    if not points.values or metric is None or record.resolve(metric) != points.metric:
        return finding
    have, need = len(points), policy.minimum_evaluations
    return too_early(points.metric, have, need) if have < need else finding


def _reason(due: PolicyRule, finding: Finding, record: RunRecord, gate: str | None = None) -> Reason:
    outcome = due.on_fail if finding.status == "failed" else "continue"
    evidence = finding.evidence
    metric = getattr(due.rule, "metric", None)
    if metric is not None:
        evidence = {"metric": record.resolve(metric) or metric, **evidence}
    return Reason(due.name, finding.message, evidence, finding.status, outcome, gate)


def _too_few(record: RunRecord, have: int, objective: str, need: int) -> Reason:
    message = f"{have} comparable evaluations of {objective} so far, the policy needs {need}"
    if record.metrics and objective not in record.metrics:
        message = (
            f"none of {', '.join(sorted(record.metrics))} is known as an objective: name one in a policy "
            "(`objective:` or `metrics:`)"
        )
    if not record.evaluations:
        message = "no evaluation in this run yet"
        if record.incidents:
            message += f"; it says: {record.incidents[-1].message}"
    return Reason(
        code="too_few_evaluations",
        message=message,
        evidence={"have": have, "need": need},
        status="too_early",
        outcome="continue",
    )


def _waited_for(reason: Reason) -> bool:
    """Whether the verdict waits for the points this rule needs: a gate's, or one that the policy insists on."""
    insisted = reason.evidence.get("measured") is False
    return reason.status == "too_early" and (reason.gate is not None or insisted)


def _rank(reason: Reason, verdict: VerdictName) -> int:
    """What decided comes first: the worst failures, or for `undecided` what is missing; then what passed."""
    if reason.status == "failed":
        return -_SEVERITY[reason.outcome]
    if reason.status == "passed":
        return 1
    if reason.status == "not_measured":
        return 3
    waited_for = _waited_for(reason) or reason.code == "too_few_evaluations"
    return 0 if verdict == "undecided" and waited_for else 2


def _point(
    record: RunRecord, files: Sequence[Checkpoint], evaluation: Evaluation | None, objective: str, kind: str
) -> dict[str, Any] | None:
    """An evaluation, and the file of its weights; of two files that of the `kind`, which is what it is kept for."""
    if evaluation is None:
        return None
    of_step = sorted((file for file in files if file.step == evaluation.step), key=lambda file: file.kind != kind)
    return {
        "step": evaluation.step,
        "epoch": evaluation.epoch,
        "epochs_done": record.epochs_done(evaluation),
        "value": evaluation.metrics.get(objective),
        "checkpoint": of_step[0].path if of_step else None,
    }
