"""The proof that the optimizer updates with the planned learning rate."""

from __future__ import annotations

from collections.abc import Callable

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.phases.plan import matches
from xtts_gatekeeper.record.events import Event, Incident, LearningRateCheck
from xtts_gatekeeper.trainer_port import TrainerPort


class LearningRateError(UserError):
    """The optimizer is about to make its first update with a learning rate that nobody planned."""


class RateCheck:
    """Compares every parameter group with the plan at every update of the optimizer, right before it.

    It runs inside a hook of the optimizer, so it sees what the update will use, whatever scheduler, resume or callback
    touched it before. A mismatch at the first update after a start, a resume or a switch is an error, a later one is
    recorded, once for each wrong value, and corrected where the rate is ours.

    Args:
        port: the Trainer.
        record: takes events.
        refuse: whether a mismatch at the first update is an error.
        correct: whether to put the planned rate in effect where another one is.
    """

    def __init__(self, port: TrainerPort, record: Callable[[Event], None], *, refuse: bool, correct: bool) -> None:
        self.port = port
        self.record = record
        self.refuse = refuse
        self.correct = correct
        self._proven: set[int] = set()
        self._last_wrong: dict[int, list[float]] = {}

    def begin(self) -> None:
        """The next update of each optimizer is a first one."""
        self._proven.clear()

    def check(self, number: int, planned: list[float], who: str, remedy: str) -> None:
        """Check optimizer `number` against the planned rate of each of its groups.

        Args:
            number: of the optimizer.
            planned: a rate for each parameter group.
            who: has planned them, for the sentence.
            remedy: what to do about it, for the sentence.

        Raises:
            LearningRateError: the first update would be made with another rate.
        """
        groups = self.port.optimizers[number].param_groups
        in_effect = [float(group["lr"]) for group in groups]
        ok = matches(in_effect, planned)
        first = number not in self._proven
        step, epoch = self.port.step, self.port.epoch
        if first:
            self._proven.add(number)
            self.record(
                LearningRateCheck(step=step, epoch=epoch, phase=who, planned=planned[0], in_effect=in_effect, ok=ok)
            )
        if ok:
            return
        message = f"step {step}: LR {_join(in_effect)} in effect where {who} plans {_join(sorted(set(planned)))}"
        if first and self.refuse:
            raise LearningRateError(f"{message}; {remedy}.")
        if self.correct:
            for group, lr in zip(groups, planned, strict=True):
                group["lr"] = lr
            message += "; corrected"
        if in_effect != self._last_wrong.get(number):
            self._last_wrong[number] = in_effect
            self.record(Incident(step=step, epoch=epoch, code="lr_not_as_planned", message=message))
            self.port.log(f"WARNING: {message}")


def _join(rates: list[float]) -> str:
    return ", ".join(f"{lr:g}" for lr in rates)
