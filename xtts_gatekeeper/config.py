"""The `gatekeeper` section of a Coqui config. Needs the `train` extra.

No `from __future__ import annotations` here: coqpit reads the fields' real types.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.checkpoints.retention import DEFAULT, parse_policy, split_terms
from xtts_gatekeeper.errors import UserError, nearest, refuse
from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.phases.plan import SCHEDULES

try:
    from coqpit import Coqpit
except ImportError as error:
    raise ImportError(f'training needs the extra: pip install "xtts-gatekeeper[train]" ({error})') from None

if TYPE_CHECKING:
    from xtts_gatekeeper.coqui_config import GatekeptGPTTrainerConfig

__all__ = [
    "ActionsConfig",
    "CheckpointsConfig",
    "DatasetConfig",
    "GatekeeperConfig",
    "GatekeptGPTTrainerConfig",
    "GradientsConfig",
    "HangConfig",
    "OutOfMemoryConfig",
    "PhaseConfig",
    "SamplesConfig",
]

#: What may be done about eval clips that are trained on.
LEAK_ANSWERS = ("warn", "exclude", "refuse")

#: Sizes of the recogniser by which samples are measured.
WHISPER_SIZES = ("base", "small", "medium", "large-v3")


class Section(Coqpit):
    """A part of our settings. Reading one is strict, where coqpit drops an unknown key and resets a whole section
    to its defaults for one value of a wrong type: both end with one sentence and exit code 2.
    """

    def flat(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every setting with its value, named as on the command line: `actions.stop`."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Section):
                yield from value.flat(f"{prefix}{f.name}.")
            else:
                yield prefix + f.name, value

    @classmethod
    def deserialize_immutable(cls, data: dict[str, Any]) -> "Section":
        """Read the section from a config's JSON."""
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise refuse(UserError(f"unknown key {key!r} in {cls.__name__}, {nearest(key, known)}"))
        try:
            section: Section = super().deserialize_immutable(data)
        except (TypeError, ValueError) as error:
            raise refuse(UserError(f"{cls.__name__} cannot be read: {error}")) from None
        return section


@dataclass
class PhaseConfig(Section):
    """One learning-rate phase. Every phase but the last has at least one end; the first that comes counts."""

    name: str = field(default="", metadata={"help": "Name of the phase in log, journal and table."})
    lr: float = field(
        default=0.0, metadata={"help": "Learning rate of every parameter group, the highest of the phase."}
    )
    schedule: str = field(
        default="constant",
        metadata={
            "help": "constant; cosine: falls to lr_end by the end of the phase; one_cycle: as torch's OneCycleLR."
        },
    )
    warmup_steps: int = field(
        default=0, metadata={"help": "The rate rises linearly over so many steps (constant and cosine)."}
    )
    lr_end: float | None = field(
        default=None, metadata={"help": "Where cosine (default 0) and one_cycle (default lr / 250,000) end."}
    )
    until_epoch: int | None = field(
        default=None, metadata={"help": "The phase ends before this epoch, as the Trainer numbers them (from 0)."}
    )
    until_step: int | None = field(default=None, metadata={"help": "The phase ends before this GLOBAL_STEP."})
    until_plateau: int | None = field(
        default=None,
        metadata={"help": "It ends after so many evaluations in a row, none 0.1 % better than the best in it before."},
    )
    until_target: float | None = field(
        default=None, metadata={"help": "It ends when the policy's objective has come down to this value."}
    )
    until_tune: bool = field(
        default=False, metadata={"help": "It ends when the verdict is `tune` for a metric of training or evaluation."}
    )
    grad_clip: float | None = field(
        default=None, metadata={"help": "Largest gradient norm during the phase, 0 for none; default: the config's."}
    )
    grad_accum_steps: int | None = field(
        default=None, metadata={"help": "Batches an update during the phase; default: that of the TrainerArgs."}
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Parameters that do not train during the phase, as patterns such as xtts.gpt.text_*."},
    )
    reset_optimizer: bool = field(
        default=False,
        metadata={"help": "The optimizer forgets its moments when the phase begins; by default it stays warm."},
    )


@dataclass
class ActionsConfig(Section):
    """What a verdict may do by itself. All off by default: a verdict is advice until this says otherwise."""

    stop: bool = field(
        default=False, metadata={"help": "End fit() normally, with a checkpoint, when the verdict is `stop`."}
    )
    next_phase: bool = field(
        default=False, metadata={"help": "Begin the next phase when the verdict is `tune`, or `stop` for a plateau."}
    )
    lower_lr: bool = field(
        default=False, metadata={"help": "Lower the rate when the verdict is `tune` and its next steps say so."}
    )
    rewind: bool = field(
        default=False,
        metadata={"help": "Go back to the best weights at a lower rate when losses or gradients have run away."},
    )
    limit: int = field(default=3, metadata={"help": "How often each of lower_lr and rewind may be done in a run."})
    wait: int = field(default=3, metadata={"help": "Evaluations after an action before the next one."})

    def check(self, phases: bool) -> None:
        """Check the section; `phases` tells whether there are any.

        Raises:
            UserError: numbers that make no sense, or actions on a learning rate that is not ours.
        """
        for name in ("limit", "wait"):
            if getattr(self, name) < 1:
                raise UserError(f"actions.{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("next_phase", "lower_lr", "rewind"):
            if getattr(self, name) and not phases:
                raise UserError(
                    f"actions.{name} changes the learning rate: it needs phases, which own it; give at least one."
                )


@dataclass
class GradientsConfig(Section):
    """What happens to gradients that hold NaN or infinity."""

    skip_nonfinite: bool = field(
        default=True, metadata={"help": "Leave out the update: weights and optimizer stay as they are."}
    )
    nonfinite_limit: int = field(
        default=10,
        metadata={"help": "So many such updates in a row end in a rewind (where enabled) or a stop; 0: never."},
    )

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: a number below 0.
        """
        if self.nonfinite_limit < 0:
            raise UserError(f"gradients.nonfinite_limit is {self.nonfinite_limit}; give a number from 0 on.")


@dataclass
class OutOfMemoryConfig(Section):
    """What happens when the device runs out of memory in a step."""

    retry: bool = field(
        default=True,
        metadata={"help": "Train the batch in halves, or leave it out; False lets the error end the run, as stock."},
    )
    lower_after: int = field(
        default=2,
        metadata={"help": "From so many times on every batch is trained in parts that fit; the update stays the same."},
    )

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: a number below 1.
        """
        if self.lower_after < 1:
            raise UserError(f"out_of_memory.lower_after is {self.lower_after}; it must be 1 or more.")


@dataclass
class HangConfig(Section):
    """What a training that stands still is, and what happens to it."""

    factor: float = field(
        default=50.0,
        metadata={"help": "No step for so many times the median step is a hang: every stack is written; 0: never."},
    )
    minimum_seconds: float = field(default=600.0, metadata={"help": "But nothing below so many seconds is one."})
    evaluation: bool = field(
        default=False, metadata={"help": "Watch evaluations and samples, too, which are slow by nature."}
    )
    end_process: bool = field(
        default=False,
        metadata={"help": "End the process then, for what started it to start it anew, as `run` always does."},
    )

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: numbers that make no sense.
        """
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise UserError(f"hang.factor is {self.factor}; give a number from 0 on.")
        if not (math.isfinite(self.minimum_seconds) and self.minimum_seconds > 0):
            raise UserError(f"hang.minimum_seconds is {self.minimum_seconds}; give a number above 0.")


@dataclass
class DatasetConfig(Section):
    """What is looked at in the data, and what follows from it."""

    audit: bool = field(
        default=True,
        metadata={"help": "Look at every clip before training: which of them XTTS cannot use, and which look wrong."},
    )
    leaks: str = field(
        default="warn",
        metadata={
            "help": "Eval clips that are trained on, or were before: warn, exclude (evaluate without them) or refuse."
        },
    )

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: no such answer to a leak.
        """
        if self.leaks not in LEAK_ANSWERS:
            raise UserError(f"dataset.leaks is {self.leaks!r}, {nearest(self.leaks, LEAK_ANSWERS)}")


@dataclass
class SamplesConfig(Section):
    """What the model speaks while it trains, and what is measured of it."""

    every: int = field(
        default=1,
        metadata={"help": "Speak the prompts at every so many evaluations, at new bests and at gates; 0: never."},
    )
    prompts: str = field(
        default="", metadata={"help": "A file of prompts, YAML or one a line; by default ours in the run's languages."}
    )
    takes: int = field(default=1, metadata={"help": "Samples of each prompt, with seeds of their own."})
    voice: list[str] = field(
        default_factory=list, metadata={"help": "Clips of the voice; by default the longest held-out ones."}
    )
    other_languages: int = field(
        default=2, metadata={"help": "So many languages that are not trained on are spoken, too, against forgetting."}
    )
    seconds: float = field(default=120.0, metadata={"help": "Time to speak in at one check; what is left is left out."})
    wait_seconds: float = field(
        default=120.0, metadata={"help": "How long a gate, and the end of training, wait for samples to be measured."}
    )
    measure: bool = field(default=True, metadata={"help": "Measure the samples, in a process beside training."})
    threads: int = field(default=1, metadata={"help": "Processor threads of that process."})
    models: str = field(
        default="", metadata={"help": "Folder of the measures' models; by default that in XTTS_GATEKEEPER_MODELS."}
    )
    whisper: str = field(default="base", metadata={"help": "Size of the recogniser: base, small, medium or large-v3."})
    download: bool = field(default=False, metadata={"help": "Fetch models that are missing from the hub."})

    @property
    def asked_for(self) -> bool:
        """Whether samples were asked for, as against being there by default."""
        return bool(self.every) and {k: v or None for k, v in self.flat()} != {
            k: v or None for k, v in SamplesConfig().flat()
        }

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: a number that makes no sense, or a folder of models that is not there.
        """
        for name, least in (("every", 0), ("takes", 1), ("other_languages", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise UserError(f"samples.{name} is {getattr(self, name)}; give a number from {least} on.")
        for name in ("seconds", "wait_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "seconds" and not value):
                raise UserError(f"samples.{name} is {value}; give a number of seconds above 0.")
        if self.whisper not in WHISPER_SIZES:
            raise UserError(f"samples.whisper is {self.whisper!r}, {nearest(self.whisper, WHISPER_SIZES)}")
        if self.models and not Path(self.models).is_dir():
            raise UserError(f"samples.models {self.models} is no folder; give the one that holds the models.")


@dataclass
class CheckpointsConfig(Section):
    """Which files are kept, and who writes them."""

    prune: bool = field(
        default=True,
        metadata={
            "help": "Write checkpoints verified, keep the latest resumable one and the best by the objective, and "
            "delete the older ones after the newer was read back. False leaves saving and deleting to the Trainer."
        },
    )
    keep: str = field(
        default=", ".join(DEFAULT),
        metadata={
            "help": "What is kept, by commas: latest:N, best:N[:METRIC], every:STEPS, gate[:NAME], A&B. "
            "The newest resumable file and the best by the objective always are."
        },
    )
    disk_budget_gb: float | None = field(
        default=None,
        metadata={"help": "Gigabytes (1e9 bytes) that the run's checkpoints may take; what is kept beyond must go."},
    )
    asynchronous: bool = field(
        default=True,
        metadata={
            "help": "Write beside training from a copy in host memory; False, or too little memory: training waits."
        },
    )
    full_disk_pause_minutes: float = field(
        default=60.0,
        metadata={"help": "How long training waits for room when not even weights fit on the disk; then it stops."},
    )
    remote: str = field(
        default="",
        metadata={"help": "Where a verified copy of the run is kept, as an fsspec URL such as s3://bucket/prefix."},
    )

    def check(self) -> None:
        """Check the section.

        Raises:
            UserError: a retention term or a number that cannot be used.
        """
        parse_policy(split_terms(self.keep))
        if self.disk_budget_gb is not None and not (math.isfinite(self.disk_budget_gb) and self.disk_budget_gb > 0):
            raise UserError(f"checkpoints.disk_budget_gb is {self.disk_budget_gb}; give a number above 0.")
        if not (math.isfinite(self.full_disk_pause_minutes) and self.full_disk_pause_minutes >= 0):
            raise UserError(
                f"checkpoints.full_disk_pause_minutes is {self.full_disk_pause_minutes}; give a number from 0 on."
            )
        if self.remote and not self.prune:
            raise UserError("checkpoints.remote copies the files that we write: it needs checkpoints.prune.")


@dataclass
class GatekeeperConfig(Section):
    """Everything the gatekeeper does, as one section: `--coqpit.gatekeeper.KEY VALUE` changes it."""

    enabled: bool = field(default=True, metadata={"help": "False leaves the Trainer as if we were not installed."})
    watch_only: bool = field(
        default=False,
        metadata={"help": "Record and judge, and touch nothing: no phases, no stop, no pruning, no file but ours."},
    )
    policy: str = field(default="checklist", metadata={"help": "Name of a shipped policy or path of a YAML file."})
    phases: list[PhaseConfig] = field(
        default_factory=list,
        metadata={"help": "Learning-rate phases in order; they own the LR. Empty: LR and scheduler of the config."},
    )
    metrics: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": 'Our metric names for keys that another model logs, such as {"mel_ce": "loss_mel"}. Those of XTTS '
            "are known."
        },
    )
    restart_phases: bool = field(
        default=False,
        metadata={"help": "With restore_path begin with the first phase, whatever phase the checkpoint is of."},
    )
    lr_mismatch: str = field(
        default="error",
        metadata={
            "help": "Without phases: what a first update with another rate than config and scheduler ask for is, "
            "`error` or `warn`."
        },
    )
    report: bool = field(
        default=True,
        metadata={
            "help": "Write gatekeeper/report.html when training ends, as the verb `report` does, and show the run as a "
            "picture on the Trainer's dashboard."
        },
    )
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    out_of_memory: OutOfMemoryConfig = field(default_factory=OutOfMemoryConfig)
    hang: HangConfig = field(default_factory=HangConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)

    def check(self) -> None:
        """Check the section as a whole.

        Raises:
            UserError: the policy cannot be used, or the phases make no plan.
        """
        load_policy(self.policy)
        check_phases(self.phases or [])
        self.actions.check(bool(self.phases))
        self.gradients.check()
        self.out_of_memory.check()
        self.hang.check()
        self.checkpoints.check()
        self.dataset.check()
        self.samples.check()
        if self.lr_mismatch not in ("error", "warn"):
            raise UserError(f"lr_mismatch is {self.lr_mismatch!r}; give error or warn.")
        if self.watch_only and self.checkpoints.remote:
            raise UserError("checkpoints.remote copies the files that we write: with watch_only there are none.")


_COUNTED = ("until_step", "until_epoch")
_ENDS = (*_COUNTED, "until_plateau", "until_target", "until_tune")


def check_phases(phases: list[PhaseConfig]) -> None:
    """Check that `phases` make a plan: rising ends, an end for all but the last, numbers that make sense.

    Raises:
        UserError: naming the phase.
    """
    ends = dict.fromkeys(_COUNTED, 0)
    names = [phase.name or f"phase {number}" for number, phase in enumerate(phases, 1)]
    for number, (who, phase) in enumerate(zip(names, phases, strict=True), 1):
        if names.count(who) > 1:
            raise UserError(f"two phases are called {who}; a resume finds its phase by the name.")
        _check_numbers(who, phase)
        given = {key: value for key in _ENDS if (value := getattr(phase, key)) is not None and value is not False}
        if number == len(phases):
            if given:
                raise UserError(f"{who} is the last and has an end ({_words(given)}); leave it out.")
        elif not given:
            raise UserError(f"{who} needs an end, {', '.join(_ENDS[:-1])} or {_ENDS[-1]}; it has none.")
        elif phase.schedule != "constant" and not given.keys() & set(_COUNTED):
            raise UserError(
                f"{who} is {phase.schedule}, which needs to know its length: give until_epoch or until_step."
            )
        for key in _COUNTED:
            end = given.get(key)
            if end is None:
                continue
            if end <= ends[key]:
                raise UserError(f"{who} ends at {key} {end}, which is not after {ends[key]}, where it can begin.")
            ends[key] = end


def _check_numbers(who: str, phase: PhaseConfig) -> None:
    def positive(value: float | None) -> bool:
        return value is None or (math.isfinite(value) and value > 0)

    if not positive(phase.lr):
        raise UserError(f"{who} has the learning rate {phase.lr}; give a number above 0.")
    if phase.schedule not in SCHEDULES:
        raise UserError(f"{who} has the schedule {phase.schedule!r}, {nearest(phase.schedule, SCHEDULES)}")
    if phase.warmup_steps < 0:
        raise UserError(f"{who} has warmup_steps {phase.warmup_steps}; give a number from 0 on.")
    if phase.schedule == "one_cycle" and phase.warmup_steps:
        raise UserError(f"{who} is one_cycle, which warms up by itself: leave warmup_steps out.")
    if phase.lr_end is not None:
        if phase.schedule == "constant":
            raise UserError(f"{who} is constant and has lr_end {phase.lr_end}; give a schedule that ends there.")
        if not (math.isfinite(phase.lr_end) and 0 <= phase.lr_end <= phase.lr):
            raise UserError(f"{who} has lr_end {phase.lr_end}; give a number from 0 to its lr {phase.lr}.")
    if phase.until_plateau is not None and phase.until_plateau < 1:
        raise UserError(f"{who} has until_plateau {phase.until_plateau}; give a number of evaluations from 1 on.")
    if phase.until_target is not None and not math.isfinite(phase.until_target):
        raise UserError(f"{who} has until_target {phase.until_target}; give a finite number.")
    if phase.grad_clip is not None and not (math.isfinite(phase.grad_clip) and phase.grad_clip >= 0):
        raise UserError(f"{who} has grad_clip {phase.grad_clip}; give a number from 0 on.")
    if phase.grad_accum_steps is not None and phase.grad_accum_steps < 1:
        raise UserError(f"{who} has grad_accum_steps {phase.grad_accum_steps}; it must be 1 or more.")


def _words(given: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in given.items())


def __getattr__(name: str) -> Any:
    """Import TTS (5 s) only for the one class that needs it."""
    if name == "GatekeptGPTTrainerConfig":
        from xtts_gatekeeper.coqui_config import GatekeptGPTTrainerConfig

        return GatekeptGPTTrainerConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
