"""The actor that lets a model in training speak its prompts, has the samples measured, and records their scores.

What is spoken lies in `<run>/gatekeeper/samples/<step>/`. Docs: `docs/samples.md`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.dashboard import Dashboard
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.gates.evaluate import due_gates
from xtts_gatekeeper.record import Evaluation, RunRecord, SampleScore
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.run import best_of
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.samples.calibration import Reference
from xtts_gatekeeper.samples.prompts import choose_prompts, languages_of
from xtts_gatekeeper.samples.sets import Sample, SampleSet, read_set
from xtts_gatekeeper.samples.speak import Plan, plan_fingerprint, sets_in, speak_set
from xtts_gatekeeper.samples.voice import choose_voice, held_out, references_of
from xtts_gatekeeper.trainer_port import TrainerPort, release_memory, speech

if TYPE_CHECKING:
    from xtts_gatekeeper.config import SamplesConfig

#: Folder, in the run's folder of ours, of the sets, and the file in it by which they are measured.
SAMPLES = "samples"
CALIBRATION = "calibration.json"

#: A wait is interrupted this often to see whether the process is asked to leave.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Prepared:
    """What is spoken in a run, on which scale it is measured, and the fingerprint of the former."""

    plan: Plan
    references: tuple[Reference, ...]
    prompts: str


def samples_folder(run: Path) -> Path:
    """Where the samples of a run lie."""
    return run / FOLDER / SAMPLES


def prepare(
    port: TrainerPort, settings: SamplesConfig, eval_samples: Sequence[Any] | None
) -> tuple[Prepared | None, list[str]]:
    """Settle what is to be spoken in this run; None where nothing is, or nothing can be.

    Args:
        port: the Trainer.
        settings: the section `samples`.
        eval_samples: the clips that are evaluated on.

    Returns:
        What to speak, and sentences for the baseline.

    Raises:
        UserError: prompts or voice that were given cannot be used.
    """
    if not settings.every or not port.is_main:
        return None, []
    xtts, asked_for = port.xtts, settings.asked_for
    if xtts is None:
        return None, ["there are no samples: the model is no XTTS"] if asked_for else []
    if not speech.has_decoder_weights(xtts):
        said = "there are no samples: the decoder has no trained weights (model_args.xtts_checkpoint), it makes noise"
        return None, [said] if asked_for else []
    clips = held_out(eval_samples or ())
    languages = languages_of(port.train_samples or ()) or languages_of(eval_samples or ())
    prompts = choose_prompts(languages, settings.other_languages, Path(settings.prompts) if settings.prompts else None)
    voice = choose_voice(clips, settings.voice or ())
    if voice is None:
        return None, ["there are no samples: no eval clip can be read as the voice; give samples.voice"]
    if not any(prompt.own for prompt in prompts):
        return None, ["there are no samples: no clip tells its language; give samples.prompts"]
    plan = Plan(prompts=prompts, voice=voice, takes=settings.takes, seconds=settings.seconds)
    prints = plan_fingerprint(plan, speech.settings_of(xtts))
    return Prepared(plan, tuple(references_of(clips, voice)), prints), []


@dataclass(frozen=True)
class Due:
    """Whether to speak at an evaluation, and whether a gate waits for what the samples measure."""

    speak: bool
    wait: bool


def due_at(record: RunRecord, evaluation: Evaluation, policy: Policy, every: int) -> Due:
    """What is due at an evaluation that is not on record yet.

    Samples are spoken at every so many evaluations, at a new best of the objective, and where a gate is due.
    """
    record = replace(record, events=(*record.events, evaluation)).naming(policy.names)
    gate = bool(due_gates(record, policy))
    objective = record.resolve(policy.objective)
    best = objective is not None and best_of(record.believed, objective) is evaluation
    turn = len(record.evaluations) % every == 0
    return Due(speak=turn or gate or best, wait=gate)


class Sampling:
    """Speaks and has measured; only the process that writes has one.

    Args:
        port: the Trainer.
        recorder: the live record.
        dashboard: the Trainer's own.
        policy: the rules.
        settings: the section `samples`.
        prepared: what to speak.
        during: goes around what takes its time, so that it is not taken for a hang.
        asked: whether the process is asked to leave.
    """

    def __init__(
        self,
        port: TrainerPort,
        recorder: Recorder,
        dashboard: Dashboard,
        policy: Policy,
        settings: SamplesConfig,
        prepared: Prepared,
        *,
        during: Callable[[str], AbstractContextManager[None]] = lambda doing: nullcontext(),
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.dashboard = dashboard
        self.policy = policy
        self.settings = settings
        self.prepared = prepared
        self.folder = samples_folder(port.run_folder)
        self._during = during
        self._asked = asked
        self._begun = False
        self._measures = settings.measure
        self._worker: Any = None
        self._pending: set[Path] = set()
        #: Sets whose scores this process has recorded, by folder and weights.
        self._scored: set[tuple[Path, str]] = set()
        self._told: set[str] = set()

    # When

    def begin(self) -> None:
        """Training is about to begin: what the weights say before it is what later samples are compared with.

        A run that is gone on with has that; there what was not measured to its end is taken up.
        """
        if self._begun:
            return
        self._begun = True
        with self.recorder.softly("samples"):
            if self.port.continued:
                self._take_up()
            else:
                self._speak()

    def evaluated(self, evaluation: Evaluation) -> None:
        """The Trainer has evaluated; `evaluation` is recorded after this, and judged with the scores that are there."""
        with self.recorder.softly("samples"):
            self.poll()
            due = due_at(self.recorder.seen(), evaluation, self.policy, self.settings.every)
            if due.speak:
                self._speak()
            if due.wait:
                self._wait()

    def poll(self) -> None:
        """Record what has been measured meanwhile; costs nothing where nothing is."""
        if self._pending:
            with self.recorder.softly("samples"):
                self._collect()

    def finish(self, *, wait: bool) -> None:
        """Training is over: what is still measured comes onto the record, where it may be waited for."""
        with self.recorder.softly("samples"):
            if wait:
                self._wait()
            elif self._pending:
                self._collect()

    def close(self) -> None:
        """End the process that measures."""
        worker, self._worker = self._worker, None
        self._pending.clear()
        if worker is not None:
            with self.recorder.softly("samples"):
                worker.close()

    # Speaking

    def _speak(self) -> None:
        began = time.perf_counter()
        try:
            with self._during("sampling"):
                made = speak_set(
                    self.port.xtts,
                    self.folder / str(self.port.step),
                    self.prepared.plan,
                    step=self.port.step,
                    epoch=self.port.epoch,
                    weights="live",
                    asked=self._asked,
                )
        finally:
            release_memory()
        if made is None:
            return
        self._say(made, time.perf_counter() - began)
        self.dashboard.samples(made)
        self._measure(made)

    def _say(self, made: SampleSet, seconds: float) -> None:
        spoken = [sample for sample in made.samples if sample.file]
        cut = sum(sample.cut for sample in spoken)
        said = f"step {made.step}: {len(spoken)} samples in {FOLDER}/{SAMPLES}/{made.folder.name}, {seconds:.1f} s"
        self.port.log(said + (f"; {cut} did not come to an end" if cut else ""))
        wrong: dict[str, list[Sample]] = {}
        for sample in made.samples:
            if sample.error:
                wrong.setdefault(sample.error, []).append(sample)
        for error, samples in wrong.items():
            if error not in self._told:  # a language without its package, say, fails at every check
                self._told.add(error)
                first = samples[0].prompt + (f" and {len(samples) - 1} more" if len(samples) > 1 else "")
                self.recorder.incident("sample_missing", f"not spoken at step {made.step}: {first}: {error}")

    # Measuring

    def _take_up(self) -> None:
        scored = {score.step for score in self.recorder.seen().sample_scores if score.prompts == self.prepared.prompts}
        for made in sets_in(self.folder):
            ours = made.weights == "live" and made.prompts == self.prepared.prompts
            if ours and made.step <= self.port.step and made.step not in scored:
                self._measure(made)

    def _measure(self, made: SampleSet) -> None:
        if (made.folder, made.digest) in self._scored or made.folder in self._pending:
            return
        if made.measured:
            self._record(made)
        elif self._measures:
            try:
                self._submit(made)
            except Exception as error:
                self._not_measured(f"{type(error).__name__}: {error}")
                self._measures = False

    def _submit(self, made: SampleSet) -> None:
        if self._worker is None:
            from xtts_gatekeeper.samples.worker import Worker

            settings = self.settings
            models = Path(settings.models) if settings.models else None
            self._worker = Worker(models, settings.threads, settings.download, settings.whisper)
        self._worker.submit(made.folder, self.folder / CALIBRATION, self.prepared.references)
        self._pending.add(made.folder)

    def _wait(self) -> None:
        """Until everything is measured, `wait_seconds` at most."""
        if not self._pending:
            return
        ends = time.monotonic() + self.settings.wait_seconds
        with self._during("sampling"):
            while not self._asked() and (left := ends - time.monotonic()) > 0:
                if self._worker.wait(min(left, _LOOK_SECONDS)):
                    break
        self._collect()
        if self._pending and not self._asked():
            steps = ", ".join(sorted((folder.name for folder in self._pending), key=int))
            self.port.log(f"the samples of step {steps} are still measured after {self.settings.wait_seconds:g} s")

    def _collect(self) -> None:
        for done in self._worker.finished():
            self._pending.discard(done.folder)
            if done.error:
                self._not_measured(done.error)
            else:
                self._record(read_set(done.folder))

    def _not_measured(self, why: str) -> None:
        """An incident once: what is missing now is missing at the next check, too."""
        if "not measured" in self._told:
            self.port.log(f"samples are not measured: {why}")
            return
        self._told.add("not measured")
        self.recorder.incident("samples_not_measured", f"samples are spoken but not measured: {why}")

    def _record(self, made: SampleSet) -> None:
        from xtts_gatekeeper.samples.score import fault_counts

        self._scored.add((made.folder, made.digest))
        metrics = {name: value for name, value in made.scores.items() if math.isfinite(value)}
        if not metrics:
            self._not_measured(_missing(made))
            return
        score = SampleScore(
            step=made.step,
            epoch=made.epoch if made.epoch is not None else self.port.epoch,
            metrics=metrics,
            prompts=made.prompts,
            folder=made.folder.relative_to(self.port.run_folder).as_posix(),
            faults=fault_counts(made),
        )
        self.recorder.record(score)
        self.dashboard.sample_score(score)
        told = f"{metrics['sample.score']:.1f} of 25" if "sample.score" in metrics else "no score"
        faults = ", ".join(f"{kind} in {count}" for kind, count in score.faults.items())
        self.port.log(f"samples of step {made.step}: {told}" + (f"; {faults}" if faults else ""))


def _missing(made: SampleSet) -> str:
    """Why a set that was measured has no score."""
    for measured in made.measured:
        if measured.error or measured.missing:
            return measured.error or next(f"{name}: {why}" for name, why in measured.missing.items())
    return "nothing was spoken"
