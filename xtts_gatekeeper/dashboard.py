"""Exact metrics and verdicts on the dashboard that the Trainer has: TensorBoard, W&B, MLflow, Aim or ClearML."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from xtts_gatekeeper.gates import Policy, Verdict
from xtts_gatekeeper.record import Evaluation, RunRecord, SampleScore, TrainEpoch
from xtts_gatekeeper.samples.sets import SampleSet
from xtts_gatekeeper.samples.speak import read_wav
from xtts_gatekeeper.trainer_port import TrainerPort

#: Prefix of every name of ours, so that they stand together and no reader of ours takes them for a second run.
SCOPE = "Gatekeeper"

#: The verdict as a curve.
VERDICTS: dict[str, int] = {"undecided": -1, "continue": 0, "tune": 1, "stop": 2}

#: Of the time of training, drawing takes at most this share: on a real run every evaluation has its picture.
_SHARE = 0.01


class Dashboard:
    """Sends what we measured to the Trainer's own dashboard logger, at GLOBAL_STEP.

    Args:
        port: the Trainer.
        pictures: show the run as a picture, too.
    """

    def __init__(self, port: TrainerPort, *, pictures: bool = True) -> None:
        self.port = port
        self.pictures = pictures
        self._next_picture = 0.0

    def train_epoch(self, epoch: TrainEpoch) -> None:
        """The exact means of a training epoch and what it took."""
        more = {"train.nonfinite_batches": float(epoch.nonfinite_batches)}
        if epoch.memory_used is not None:
            more["train.memory_used"] = epoch.memory_used
        for part in (epoch.gradients, epoch.throughput):
            more |= {f"train.{key}": float(value) for key, value in part.items() if value is not None}
        self._scalars({**epoch.metrics, **more})

    def verdict(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """An evaluation's exact means, their gap to training, the verdict as a number and its reasons as text."""
        gaps = {f"gap.{name}": value for name, value in evaluation.gap.items()}
        self._scalars({**evaluation.metrics, **gaps, "verdict": float(VERDICTS[verdict.verdict])})
        gates = f" at {' and '.join(verdict.gates)}" if verdict.gates else ""
        lines = [f"**{verdict.verdict}**{gates}"]
        lines += [f"- {r.outcome}: {r.message}" for r in verdict.reasons if r.status == "failed"]
        lines += [f"- next: {step.message}" for step in verdict.next_steps]
        self.port.dashboard_text(f"{SCOPE}/verdict", "\n".join(lines))

    def curves(self, record: RunRecord, policy: Policy, *, last: bool = False) -> None:
        """The run so far as one picture, unless the one before was only just drawn; the `last` in any case."""
        began = time.perf_counter()
        if not self.pictures or (began < self._next_picture and not last):
            return
        from xtts_gatekeeper.report.figures import overview

        figure = overview(record, policy)
        if figure is not None:
            self.port.dashboard_figure(f"{SCOPE}/run", figure)
        now = time.perf_counter()
        self._next_picture = now + (now - began) / _SHARE

    def samples(self, made: SampleSet) -> None:
        """What was spoken, by the names of the prompts."""
        for sample in made.samples:
            if sample.file:
                audio, rate = read_wav(made.folder / sample.file)
                take = f"-{sample.take + 1}" if sample.take else ""
                self.port.dashboard_audio(f"{SCOPE}/sample.{sample.prompt}{take}", audio, rate, made.step)

    def sample_score(self, score: SampleScore) -> None:
        """The scores of samples, and their faults, at the step of the weights that spoke."""
        faults = {f"sample.fault.{kind}": float(count) for kind, count in score.faults.items()}
        self._scalars({**score.metrics, **faults}, score.step)

    def _scalars(self, values: Mapping[str, float], step: int | None = None) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.port.dashboard_scalars(SCOPE, finite, step)
