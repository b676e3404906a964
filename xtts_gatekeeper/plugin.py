"""`gatekeep()`: the one call in a recipe, and the object behind it that hooks into one stock Trainer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper import trainer_port
from xtts_gatekeeper.actions import Actions
from xtts_gatekeeper.black_box import BlackBox
from xtts_gatekeeper.checkpoints import lock
from xtts_gatekeeper.checkpoints.remote import local_output
from xtts_gatekeeper.checkpoints.resume import newest_state, resumable_or_refuse, resume_file
from xtts_gatekeeper.checkpoints.setup import make_keeper, make_mirror
from xtts_gatekeeper.crashes.evidence import has_evidence
from xtts_gatekeeper.crashes.restart import Restart
from xtts_gatekeeper.dashboard import Dashboard
from xtts_gatekeeper.dataset.guard import look_at_data
from xtts_gatekeeper.dataset.leaks import carry
from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.errors import UserError, refuse, refusing
from xtts_gatekeeper.evaluating import Evaluating
from xtts_gatekeeper.gates import Policy, load_policy
from xtts_gatekeeper.leaving import Leaving
from xtts_gatekeeper.monitors.baseline import baseline, usable_eval_samples
from xtts_gatekeeper.phases.actor import PhaseActor, check_plan, find_progress, plan_position
from xtts_gatekeeper.phases.check import RateCheck
from xtts_gatekeeper.phases.plan import PhasePlan
from xtts_gatekeeper.phases.schedule import ConfigSchedule
from xtts_gatekeeper.record import Journal, RunRecord
from xtts_gatekeeper.record.journal import FOLDER, journal_path
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.resume_point import ResumePoint, ResumePoints
from xtts_gatekeeper.samples.sampling import Sampling, prepare
from xtts_gatekeeper.settings import check_trainer_paths, has_flag, section_in_effect
from xtts_gatekeeper.starting import (
    audit_clips,
    begin_again,
    check_device,
    keep_settings,
    leave_clips_out,
    settle_leaks,
    settle_section,
)
from xtts_gatekeeper.trainer_port import TrainerPort
from xtts_gatekeeper.watch import Watch

if TYPE_CHECKING:
    from xtts_gatekeeper.config import GatekeeperConfig

Callback = Callable[[Any], None]


def gatekeep(
    config: Any, callbacks: Mapping[str, Callback] | None = None, gatekeeper: GatekeeperConfig | None = None
) -> dict[str, Callback]:
    """The callbacks that put one Trainer under gates: `Trainer(..., callbacks=gatekeep(config))`.

    Settings that cannot be used end the process here, with one sentence and exit code 2, before the Trainer makes
    its folder.

    Args:
        config: the Coqui config given to the Trainer; its `gatekeeper` section is used, with the overrides of the
            command line.
        callbacks: callbacks of your own; they are kept and run before ours.
        gatekeeper: the settings, when they are not part of `config`.

    Returns:
        A callbacks dict for the Trainer. Your own, untouched, when the section says `enabled: false`.
    """
    with refusing():
        section = section_in_effect(config) if gatekeeper is None else gatekeeper
        own = dict(callbacks or {})
        if not section.enabled:
            return own
        section.check()
        local_output(config.output_path)
        restart = Restart.asked()
        run = restart.run_for(config.run_name) if restart is not None and not has_flag("--continue_path") else ""
        if run:
            sys.argv += ["--continue_path", run]
        check_trainer_paths(sys.argv[1:])
        trainer_port.check_rank()
    trainer_port.keep_run_folders(has_evidence)
    trainer_port.unique_run_folders()
    trainer_port.config_in_one_step()
    return merge(own, Gatekeeper(section, from_config=gatekeeper is None, restart=restart, run=run).callbacks())


def merge(first: Mapping[str, Callback], second: Mapping[str, Callback]) -> dict[str, Callback]:
    """One dict out of two; where both have a key, `first` runs first."""

    def both(one: Callback, other: Callback) -> Callback:
        def run(trainer: Any) -> None:
            one(trainer)
            other(trainer)

        return run

    shared = {key: both(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **shared}


class Gatekeeper:
    """Watches one Trainer. `callbacks` and `_install` show what is hooked where."""

    def __init__(
        self, section: GatekeeperConfig, *, from_config: bool, restart: Restart | None = None, run: str = ""
    ) -> None:
        self.section = section
        self.restart = restart
        self._goes_on_with = run
        self.black_box: BlackBox | None = None
        self._from_config = from_config
        self._warnings: list[str] = []
        self.active = False
        self.phases: PhaseActor | None = None
        self.schedule: ConfigSchedule | None = None
        self.points: ResumePoints | None = None
        self.sampling: Sampling | None = None
        self._save_asked = False

    def callbacks(self) -> dict[str, Callback]:
        """What the Trainer calls."""
        return {
            "on_init_start": self.on_init_start,
            "on_init_end": self.on_init_end,
            "on_epoch_start": self.on_epoch_start,
            "on_train_epoch_start": self.on_train_epoch_start,
            "on_train_step_start": self.on_train_step_start,
            "on_train_epoch_end": self.on_train_epoch_end,
            "on_epoch_end": self.on_epoch_end,
            "on_keyboard_interrupt": self.on_keyboard_interrupt,
        }

    def _install(self) -> None:
        """The instance methods that are wrapped, because the Trainer has no callback there."""
        self.leaving.install()
        self.port.wrap("train_step", self._count_step)
        if self.port.is_main:
            self.watch.install()
            self.port.wrap("train_step", self._around_train_step)
            self.port.wrap("eval_step", self._around_eval_step)
            self.port.wrap("eval_epoch", self._around_eval_epoch)
        if self.keeper is not None:
            self.port.wrap("save_checkpoint", lambda stock: self._save_when_due())
            self.port.wrap("save_best_model", lambda stock: self._end_epoch())
        if self.black_box is not None:
            self.black_box.install()
        if self.points is not None:
            self.port.wrap("train_epoch", self._around_train_epoch)
            self.port.wrap("train_step", self.port.around_rest)

    # Start

    def on_init_start(self, trainer: Any) -> None:
        """Note the rates that were asked for; refuse a checkpoint that cannot be loaded, before the Trainer tries to.

        On `continue_path` the Trainer takes the highest number in any path, broken or not; the newest whole file is
        chosen instead.
        """
        port = TrainerPort(trainer)
        if self._goes_on_with and sys.argv[-2:] == ["--continue_path", self._goes_on_with]:
            del sys.argv[-2:]  # the Trainer has read it; the next one of this process has a run of its own
        self._warnings = leave_clips_out(port, self.restart.exclude if self.restart is not None else ())
        if not self.section.phases or self.section.watch_only:
            self.schedule = ConfigSchedule(port)
        try:
            if self.restart is not None:
                begin_again(self.restart, self._goes_on_with, port, self.section)
            if port.resumed_from is not None and "://" not in port.resumed_from:
                self._settle_checkpoint(port, port.resumed_from)
            if not self.section.watch_only:
                self._warnings += settle_leaks(port, self.section.dataset.leaks)
        except UserError as error:
            trainer_port.discard_run_folder(port)
            raise refuse(error) from None

    def _settle_checkpoint(self, port: TrainerPort, checkpoint: str) -> None:
        if port.continued and not self.section.watch_only:
            if not trainer_port.is_distributed():  # the processes of one run have its log open
                lock.refuse_if_written(port.run_folder)
            if port.is_main:
                port.resume_from(resumable_or_refuse(port.run_folder))
        else:
            resume_file(Path(checkpoint))

    def on_init_end(self, trainer: Any) -> None:
        """Check what could only be known now, write the baseline, hook in."""
        self.port = port = TrainerPort(trainer)
        try:
            self._begin(self._warnings + settle_section(port, self.section, from_config=self._from_config))
        except UserError as error:
            trainer_port.discard_run_folder(port)
            raise refuse(error) from None
        self.active = True

    def _begin(self, warnings: list[str]) -> None:
        section, port = self.section, self.port
        self.named = {**port.loss_weights, **{key: (name, 1.0) for name, key in (section.metrics or {}).items()}}
        own = {f"{side}.{name}" for side in ("eval", "train") for name, _ in self.named.values()}
        self.policy: Policy = load_policy(section.policy, own)
        warnings += self.policy.check_plan(port.config.epochs)
        eval_samples = usable_eval_samples(port)
        self.roster = Roster(port.run_folder)
        self.data = data = look_at_data(port, eval_samples, self.roster)
        warnings += data.warnings
        looked = None
        if section.dataset.audit and port.is_main:
            looked, said = audit_clips(port)
            warnings += said
        spoken, said = prepare(port, section.samples, eval_samples)
        warnings += said
        plan = PhasePlan.of(section.phases or [])
        journal_file = journal_path(port.run_folder)
        before = RunRecord(
            tuple(Journal(journal_file).events) if journal_file.exists() else (), names=self.policy.names
        )
        warnings += check_device(before.start, port, supervised=self.restart is not None)
        acting = not section.watch_only
        saving = acting and section.checkpoints.prune and port.is_main
        point = self._resume_point(saving)
        progress = None
        if plan.phases and acting:
            if port.continued or not section.restart_phases:
                told = point.told if point is not None else None
                progress = find_progress(plan, port, before, self.policy.objective, told)
            check_plan(plan, port)
            plan.check_start(*plan_position(port, progress), progress.index if progress else 0)

        if port.is_main:
            journal_file.parent.mkdir(parents=True, exist_ok=True)
            lock.hold(port.run_folder)
        self.recorder = Recorder(port, self.policy.names)
        self.dashboard = Dashboard(port, pictures=section.report)
        if plan.phases and acting:
            self.phases = PhaseActor(plan, port, self.recorder, self.policy.objective, progress)
        self.keeper = mirror = None
        if saving:
            mirror = make_mirror(section.checkpoints, port, self.recorder)
            self.keeper = make_keeper(
                section.checkpoints,
                port,
                self.policy,
                self.recorder,
                warnings,
                after_change=mirror.request if mirror is not None else lambda: None,
            )
            self.keeper.carry = self._carried
            self.keeper.train_set = data.train_set
        self.watch = Watch(port, self.recorder, self.named, section, before, self.roster)
        self.evaluating = Evaluating(port, self.recorder, self.dashboard, self.watch, self.policy, self.named, data)
        if port.is_main:
            leave = acting and (section.hang.end_process or self.restart is not None)
            flush = self.watch.steps.flush
            self.black_box = BlackBox(port, self.recorder, section.hang, leave=leave, flush=flush)
        self.leaving = Leaving(port, self.recorder, self.policy, self.dashboard, self.keeper, mirror, self.black_box)
        self.leaving.report = section.report
        if spoken is not None and self.black_box is not None:
            self.sampling = self.evaluating.sampling = self.leaving.sampling = Sampling(
                port,
                self.recorder,
                self.dashboard,
                self.policy,
                section.samples,
                spoken,
                during=self.black_box.during,
                asked=lambda: self.leaving.asked,
            )
        if point is not None and point.next == "evaluation":
            self.leaving.trained_epoch = point.epoch
        if self.points is not None and self.black_box is not None:
            loading = partial(self.black_box.during, "loading")
            self.points.connect(self.recorder, self.watch, loading, self.leaving.if_asked)
            self.leaving.whole = lambda: self.points is None or self.points.holds
        self.actions = Actions(port, self.recorder, section.actions, self.phases, self.keeper, self._rewound)
        if self.recorder.journal is not None:
            keep_settings(port.run_folder / FOLDER, section, self.policy, eval_samples)
            if self.phases is not None:
                warnings += plan.never_reached(port.config.epochs)
                if port.starts_with_evaluation and point is None and not plan.counts_steps:
                    warnings.append(
                        f"start_with_eval spends epoch {port.epoch} on an evaluation alone: {plan.phases[0].name} "
                        "trains one epoch less than its until_epoch says"
                    )
            if self.schedule is not None:
                warnings += self.schedule.unknown
            phase_lr = self.phases.lr_at_start() if self.phases is not None else None
            start = baseline(port, self.policy, data, phase_lr, warnings)
            if point is not None:
                start = replace(start, told=point.told, epoch_batches=point.batches if point.next == "batch" else None)
            for warning in start.warnings:
                port.log(f"WARNING: {warning}")
            self.recorder.record(start)
            if looked is not None:
                self.recorder.record(looked)
        if self.keeper is not None:
            self.keeper.prune()
        if self.phases is not None:
            self.phases.begin()
        elif self.schedule is not None and not port.accelerated:  # Accelerate steps schedulers by a count of its own
            refuse_first = acting and section.lr_mismatch == "error"
            self.schedule.install(RateCheck(port, self.recorder.record, refuse=refuse_first, correct=False))
        self._install()
        if self.restart is not None:
            self.restart.end_soon()
        if self.restart is not None and port.is_main:
            self.restart.report(port.run_folder, newest_state(port.run_folder, before) if port.continued else None)

    def _resume_point(self, saving: bool) -> ResumePoint | None:
        """Begin to keep points to resume from, and go on from the one that the loaded file carries.

        Only where the checkpoints are ours, and for one process that draws its own batches.
        """
        port = self.port
        if not saving or port.accelerated or trainer_port.is_distributed():
            return None
        self.points = ResumePoints(port)
        if not port.continued or port.resumed_from is None:
            return None
        return self.points.restore(Path(port.resumed_from))

    def _carried(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint holds beside what the Trainer puts in."""
        phases = self.phases.carried(epoch) if self.phases is not None else {}
        return {**phases, **(self.points.carried() if self.points is not None else {}), **carry(self.roster.digests)}

    # Training

    def on_epoch_start(self, trainer: Any) -> None:
        """Speak before the first one; go on with the evaluation that an interruption has left out."""
        if self.active and self.sampling is not None:
            self.sampling.begin()
        if self.active and self.points is not None:
            self.points.run_begins_epoch()

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Begin to add up the epoch, or go on with that."""
        if not self.active:
            return
        self.leaving.in_training = True
        if self.port.is_main:
            with self.recorder.softly("clips"):
                self.roster.enter(self.data.heard)
        self.port.step_in_epoch = 0
        self.watch.begin_epoch()
        if self.points is not None:
            self.points.epoch_begins()
        if self.black_box is not None:
            self.black_box.epoch_begins()

    def _around_train_epoch(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self.points is not None
        result = stock(*args, **kwargs)
        self.points.epoch_trained()
        return result

    def on_train_step_start(self, trainer: Any) -> None:
        """Put the planned learning rate in effect."""
        if self.active and self.phases is not None:
            self.phases.step_begins()

    def _count_step(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return stock(*args, **kwargs)
        finally:
            self.port.step_in_epoch += 1

    def _around_train_step(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        outputs, losses = stock(batch, *args, **kwargs)
        if self.points is not None:
            self.points.step_ends(*args)
        if self._save_asked:
            with self.port.before_counting():
                self._save_latest()
        lost, limit = self.watch.gradients.nonfinite_in_a_row, self.section.gradients.nonfinite_limit
        if limit and lost >= limit and not self.section.watch_only:
            self.watch.gradients.forgive()
            self.actions.on_lost_updates(lost, self.leaving.next_epoch)
        if self.sampling is not None:
            self.sampling.poll()
        self.leaving.if_asked()
        return outputs, losses

    def _rewound(self) -> None:
        self.watch.forget_losses()
        if self.points is not None:
            self.points.renew()
        self.evaluating.verdict = None

    def on_train_epoch_end(self, trainer: Any) -> None:
        """Record the epoch."""
        if not self.active:
            return
        self.leaving.in_training = False
        self.leaving.trained_epoch = self.port.epoch
        if self.black_box is not None:
            self.black_box.epoch_ends()
        if self.schedule is not None:
            self.schedule.epoch_ends()
        with self.recorder.softly("train_epoch"):
            epoch = self.watch.end_epoch()
            self.recorder.record(epoch)
            if self.recorder.journal is not None:
                self.dashboard.train_epoch(epoch)

    # Evaluation

    def _around_eval_step(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        result = self.evaluating.around_step(stock, batch, *args, **kwargs)
        self.leaving.if_asked()
        return result

    def _around_eval_epoch(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.points is not None:
            self.points.evaluation_begins()
        result = self.evaluating.around_epoch(lambda: stock(*args, **kwargs), mid_epoch=self.leaving.in_training)
        if self.evaluating.verdict is not None:
            with self.recorder.softly("evaluation"):
                self.actions.on_evaluation(self.evaluating.verdict)
        if self.leaving.in_training:
            if self.points is not None:
                self.points.evaluated_in_epoch()
            self._save_best()  # the Trainer itself looks for a best only at the end of an epoch
            self._act()
            self.watch.throughput.waits_from_now()
        return result

    def on_epoch_end(self, trainer: Any) -> None:
        """Act on the verdict on this epoch's evaluation."""
        if self.active:
            self._act()

    # Files

    def _save_when_due(self) -> None:
        """The Trainer saves inside a step, when not everything about it is known: that waits for its end."""
        if self.port.in_step:
            self._save_asked = True
        else:
            self._save_latest()

    def _save_latest(self) -> None:
        self._save_asked = False
        if self.keeper is not None:
            with self.recorder.softly("save_checkpoint"), self._saving():
                self.keeper.save_latest(self.leaving.next_epoch)

    def _end_epoch(self) -> None:
        if self.points is not None:
            self.points.epoch_ends()
        self._save_best()

    def _save_best(self) -> None:
        if self.keeper is not None:
            with self.recorder.softly("save_best"), self._saving():
                self.keeper.save_best()

    def _saving(self) -> contextlib.AbstractContextManager[None]:
        with self.recorder.softly("step_log"):
            self.watch.steps.flush()  # the log is no shorter than what a resume goes back to
        return contextlib.nullcontext() if self.black_box is None else self.black_box.during("saving")

    # Leaving

    def _act(self) -> None:
        verdict, self.evaluating.verdict = self.evaluating.verdict, None
        if verdict is not None and not self.section.watch_only:
            with self.recorder.softly("action"), self._saving():
                self.actions.on_verdict(verdict, self.leaving.next_epoch)

    def on_keyboard_interrupt(self, trainer: Any) -> None:
        """Record Ctrl-C."""
        if self.active:
            self.leaving.interrupted()
