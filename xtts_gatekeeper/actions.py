"""What a verdict leads to: the decision (pure), and the acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xtts_gatekeeper.checkpoints.keeper import CheckpointKeeper
from xtts_gatekeeper.checkpoints.resume import choose
from xtts_gatekeeper.gates import Verdict
from xtts_gatekeeper.gates.evaluate import Reason
from xtts_gatekeeper.phases.actor import PhaseActor
from xtts_gatekeeper.record import Evaluation, RunRecord
from xtts_gatekeeper.record.events import Action
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import StopTraining, TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.config import ActionsConfig

Name = Literal["next_phase", "lower_lr", "rewind", "stop"]

#: Rules that say that the weights have run away, so that better ones at a lower rate may help.
_RUN_AWAY = frozenset({"finite", "divergence", "not_worsening"})
#: Rules that say that nothing more is to be had at this rate.
_LEVEL = frozenset({"plateau", "improved", "trend"})
#: What `lower_lr` and `rewind` make of the rate where the verdict names no other factor.
_FACTOR = 0.5


@dataclass(frozen=True)
class Decision:
    """What to do, why, the factor on the learning rate, and for a stop the cause on record."""

    name: Name
    why: str
    factor: float = 1.0
    cause: str = ""


def decide(
    verdict: Verdict, enabled: ActionsConfig, taken: Sequence[Action], since: int, next_phase: bool
) -> Decision | None:
    """What follows from a verdict; None when nothing does.

    A `stop` for weights that have run away leads to a rewind, one for a plateau to the next phase, any other one ends
    the training. A `tune` about a metric leads to the next phase, or to a lower rate where its next steps ask for one.
    Each only where it is enabled and not used up, and but for a stop only `enabled.wait` evaluations after the one
    before: what it did has to show first.

    Args:
        verdict: on the latest evaluation.
        enabled: the section `actions`.
        taken: what has been done in this run so far.
        since: evaluations since the last of them, this one included.
        next_phase: whether there is one.
    """
    failed = [reason for reason in verdict.reasons if reason.status == "failed" and reason.outcome == verdict.verdict]
    if verdict.verdict not in ("tune", "stop") or not failed:
        return None
    why = failed[0].message
    codes = {reason.code for reason in failed}
    rested = not taken or since >= enabled.wait

    def left(name: Name) -> bool:
        return rested and getattr(enabled, name) and sum(a.name == name for a in taken) < enabled.limit

    if verdict.verdict == "stop":
        if codes <= _RUN_AWAY and left("rewind"):
            return Decision("rewind", why, _factor(verdict))
        if codes <= _LEVEL and enabled.next_phase and next_phase and rested:
            return Decision("next_phase", why)
        cause = "nonfinite" if "finite" in codes and "nan_repeated" not in codes else "verdict"
        return Decision("stop", why, cause=cause) if enabled.stop else None
    why = next((reason.message for reason in failed if about_learning(reason)), "")
    if not why:
        return None
    if enabled.next_phase and next_phase and rested:
        return Decision("next_phase", why)
    if any(step.code == "lower_lr" for step in verdict.next_steps) and left("lower_lr"):
        return Decision("lower_lr", why, _factor(verdict))
    return None


def about_learning(reason: Reason) -> bool:
    """Whether a reason is about a curve, as against memory, files or the clock: only that is a matter of the rate."""
    grown = reason.code == "gradients" and "norm" in reason.evidence
    return "metric" in reason.evidence or reason.code == "overfit" or grown


def _factor(verdict: Verdict) -> float:
    for step in verdict.next_steps:
        if step.code == "lower_lr":
            values = step.values
            return float(values.get("factor") or values["lr_next"] / values["lr"])
    return _FACTOR


class Actions:
    """Carries out what `decide` says, and puts it on record."""

    def __init__(
        self,
        port: TrainerPort,
        recorder: Recorder,
        enabled: ActionsConfig,
        phases: PhaseActor | None,
        keeper: CheckpointKeeper | None,
        rewound: Callable[[], None],
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.enabled = enabled
        self.phases = phases
        self.keeper = keeper
        self.rewound = rewound
        self._switched = False

    def on_evaluation(self, verdict: Verdict) -> None:
        """Let the phases take in the evaluation just made, before its state is saved: that carries where they stand."""
        if self.phases is None:
            return
        tune = verdict.verdict == "tune" and any(about_learning(r) for r in verdict.reasons if r.outcome == "tune")
        self._switched = bool(self.phases.judged("tune" if tune else None))

    def on_verdict(self, verdict: Verdict, epoch: int) -> None:
        """Act on the verdict on the evaluation just made; its best has been saved.

        Args:
            verdict: of the gates.
            epoch: at which a resume from now goes on.

        Raises:
            StopTraining: the training ends here.
        """
        if self._switched and verdict.verdict != "stop":
            return  # the plan itself has an answer to this
        record = self.recorder.seen()
        has_next = self.phases is not None and self.phases.has_next
        decision = decide(verdict, self.enabled, record.actions, _since(record), has_next)
        if decision is None:
            return
        if decision.name == "rewind":
            self.rewind(decision.why, decision.factor, epoch)
        elif decision.name == "next_phase" and self.phases is not None:
            self._record("next_phase", decision.why, {})
            self.phases.next_phase(decision.why)
        elif decision.name == "lower_lr" and self.phases is not None:
            before = self.phases.lr
            product = self.phases.scale(decision.factor)
            self._record("lower_lr", decision.why, {"lr_factor": product, "lr": before, "lr_next": self.phases.lr})
        elif decision.name == "stop":
            self._record("stop", decision.why, {})
            raise StopTraining(decision.why, decision.cause)

    def on_lost_updates(self, count: int, epoch: int) -> None:
        """So many updates in a row had gradients that were no numbers: go back, or end here.

        Raises:
            StopTraining: a rewind is not enabled, or used up.
        """
        why = f"the gradients of {count} updates in a row held NaN or infinity"
        rewinds = sum(action.name == "rewind" for action in self.recorder.seen().actions)
        if self.enabled.rewind and self.phases is not None and rewinds < self.enabled.limit:
            try:
                self.rewind(why, _FACTOR, epoch)
                return
            except Exception as error:  # without it there is nothing to go on with
                why = f"{why}, and the rewind failed: {type(error).__name__}: {error}"
        self._record("stop", why, {})
        raise StopTraining(why, "nonfinite")

    def rewind(self, why: str, factor: float, epoch: int) -> None:
        """Load the best whole file, lower the rate, and go on from there.

        GLOBAL_STEP and epochs count on; the record drops what was measured since. Optimizer and scaler are restored
        where the file has their state; of a best, which is its weights alone, the optimizer begins anew. A checkpoint
        of the new state is written at once, for a resume takes the newest file.

        Raises:
            StopTraining: there is no whole file to go back to.
        """
        assert self.phases is not None  # checked with the settings
        import torch

        if self.keeper is not None:
            self.keeper.flush()
        run = self.port.run_folder
        choice = choose(run, "best")
        if choice.file is None:
            choice = choose(run, "latest")
        if choice.file is None:
            self._record("stop", f"{why}; there is no whole file to go back to", {})
            raise StopTraining(f"{why}; there is no whole file to go back to", "nonfinite")
        state = torch.load(choice.file, map_location="cpu", mmap=True, weights_only=True)
        warm = self.port.load_state(state)
        del state
        before = self.phases.lr
        product = self.phases.scale(factor)
        self.phases.be_patient()
        to_step = choice.step if choice.step is not None else 0
        self._record(
            "rewind",
            f"{why}: back to {choice.file.name}",
            {
                "file": choice.file.name,
                "to_step": to_step,
                "optimizer": "restored" if warm else "new",
                "lr_factor": product,
                "lr": before,
                "lr_next": self.phases.lr,
            },
        )
        self.rewound()
        if self.keeper is not None:
            self.keeper.save_again(epoch)
        else:
            self.port.save_checkpoint()

    def _record(self, name: Name, message: str, values: dict[str, object]) -> None:
        self.recorder.record(
            Action(step=self.port.step, epoch=self.port.epoch, name=name, message=message, values=values)
        )
        rate = f", LR {values['lr']:g} to {values['lr_next']:g}" if "lr_next" in values else ""
        self.port.log(f"{name}{rate}: {message}")


def _since(record: RunRecord) -> int:
    """Evaluations since the last action."""
    count = 0
    for event in reversed(record.events):
        if isinstance(event, Action):
            break
        count += isinstance(event, Evaluation)
    return count
