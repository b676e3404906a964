"""The actor that measures the Trainer's evaluations exactly, records them and has them judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.dashboard import Dashboard
from xtts_gatekeeper.dataset.guard import Data
from xtts_gatekeeper.gates import Policy, Verdict, evaluate
from xtts_gatekeeper.monitors.batch import batch_size
from xtts_gatekeeper.monitors.losses import LossMeter
from xtts_gatekeeper.record import Evaluation, VerdictEvent
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort
from xtts_gatekeeper.watch import Watch

if TYPE_CHECKING:
    from xtts_gatekeeper.samples.sampling import Sampling


class Evaluating:
    """Goes around the Trainer's evaluations.

    Args:
        port: the Trainer.
        recorder: the live record.
        dashboard: the Trainer's own.
        watch: knows what the training since the epoch began measured.
        policy: the rules.
        named: logged key -> (our name, weight of the loss).
        data: what is evaluated on.
    """

    def __init__(
        self,
        port: TrainerPort,
        recorder: Recorder,
        dashboard: Dashboard,
        watch: Watch,
        policy: Policy,
        named: Mapping[str, tuple[str, float]],
        data: Data,
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.dashboard = dashboard
        self.watch = watch
        self.policy = policy
        self.named = named
        self.data = data
        #: Speaks the samples that the verdict looks at, where there are any.
        self.sampling: Sampling | None = None
        #: The verdict on the latest evaluation, until it is acted on.
        self.verdict: Verdict | None = None
        self._meter = LossMeter()
        self._objective_missed = False

    def around_step(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Add up the losses of a batch."""
        size = batch_size(batch)
        outputs, losses = stock(batch, *args, **kwargs)
        with self.recorder.softly("eval_losses"):
            self._meter.add(losses, size)
        return outputs, losses

    def around_epoch(self, stock: Callable[[], Any], *, mid_epoch: bool) -> Any:
        """Let the Trainer evaluate, record what came of it, and judge it."""
        self._meter = meter = LossMeter()
        began = time.perf_counter()
        result = stock()
        with self.recorder.softly("evaluation"):
            metrics = meter.means("eval", self.named)
            evaluation = Evaluation(
                step=self.port.step,
                epoch=self.port.epoch,
                metrics=metrics,
                batches=meter.batches,
                samples=meter.samples,
                skipped_batches=meter.skipped_batches,
                nonfinite_batches=meter.nonfinite_batches,
                mid_epoch=mid_epoch,
                eval_set=self.data.compared_as,
                leaked=len(self.data.leaks or ()),
                train_set=self.data.train_set,
                seconds=round(time.perf_counter() - began, 3),
                stock=self.watch.stock_means("eval"),
                gap=self.watch.gap(metrics),
            )
            if self.sampling is not None:  # first: a verdict knows what is on record before its evaluation
                self.sampling.evaluated(evaluation)
            self.recorder.record(evaluation)
            self._miss_objective()
            self._judge()
        return result

    def _miss_objective(self) -> None:
        """Say once that the model does not log what the policy judges by: no gate can decide then."""
        record = self.recorder.seen()
        metrics = record.evaluations[-1].metrics
        if record.resolve(self.policy.objective) or not metrics or self._objective_missed:
            return
        self._objective_missed = True
        message = (
            f"the model logs no {self.policy.objective} but {', '.join(metrics)}: give a policy with another "
            "objective, or gatekeeper.metrics; until then there is no verdict and the best is the Trainer's target loss"
        )
        self.recorder.incident("no_objective", message)

    def _judge(self) -> None:
        self.verdict = verdict = evaluate(self.recorder.seen(), self.policy)
        self.recorder.record(
            VerdictEvent(
                step=self.port.step,
                epoch=self.port.epoch,
                verdict=verdict.verdict,
                reasons=[reason for reason in verdict.to_dict()["reasons"] if reason["status"] == "failed"],
                gates=verdict.gates,
                policy_hash=verdict.policy_hash,
            )
        )
        gates = f" at {' and '.join(verdict.gates)}" if verdict.gates else ""
        self.port.log(f"verdict{gates}: {verdict.verdict}")
        for reason in verdict.reasons:
            if reason.status == "failed":
                self.port.log(f"  {'note' if reason.outcome == 'continue' else reason.outcome}: {reason.message}")
        for step in verdict.next_steps:
            self.port.log(f"  next: {step.message}")
        if self.recorder.journal is not None:
            record = self.recorder.seen()
            self.dashboard.verdict(record.evaluations[-1], verdict)
            self.dashboard.curves(record, self.policy)
