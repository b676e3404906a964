"""The `gatekeeper` section of a Coqui config. Needs the `train` extra.

No `from __future__ import annotations` here: coqpit reads the fields' real types.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.checkpoints.retention import DEFAULT, parse_policy, split_terms
from xtts_gatekeeper.errors import UserError, nearest, refuse
from xtts_gatekeeper.gates import load_policy

try:
    from coqpit import Coqpit
except ImportError as error:
    raise ImportError(f'training needs the extra: pip install "xtts-gatekeeper[train]" ({error})') from None

if TYPE_CHECKING:
    from xtts_gatekeeper.coqui_config import GatekeptGPTTrainerConfig

__all__ = ["ActionsConfig", "CheckpointsConfig", "GatekeeperConfig", "GatekeptGPTTrainerConfig", "PhaseConfig"]


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
    """One learning-rate phase. Every phase but the last ends by exactly one of `until_epoch` and `until_step`."""

    name: str = field(default="", metadata={"help": "Name of the phase in log, journal and table."})
    lr: float = field(default=0.0, metadata={"help": "Learning rate of every parameter group during the phase."})
    until_epoch: int | None = field(
        default=None, metadata={"help": "The phase ends before this epoch, as the Trainer numbers them (from 0)."}
    )
    until_step: int | None = field(default=None, metadata={"help": "The phase ends before this GLOBAL_STEP."})


@dataclass
class ActionsConfig(Section):
    """What a verdict may do by itself. All off by default: a verdict is advice until this says otherwise."""

    stop: bool = field(
        default=False, metadata={"help": "End fit() normally, with a checkpoint, when the verdict is `stop`."}
    )


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
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)

    def check(self) -> None:
        """Check the section as a whole.

        Raises:
            UserError: the policy cannot be used, or the phases make no plan.
        """
        load_policy(self.policy)
        check_phases(self.phases or [])
        self.checkpoints.check()
        if self.watch_only and self.checkpoints.remote:
            raise UserError("checkpoints.remote copies the files that we write: with watch_only there are none.")


def check_phases(phases: list[PhaseConfig]) -> None:
    """Check that `phases` make a plan: rising ends, an end for all but the last, learning rates above zero.

    Raises:
        UserError: naming the phase.
    """
    ends = {"until_step": 0, "until_epoch": 0}
    for number, phase in enumerate(phases, 1):
        who = phase.name or f"phase {number}"
        if not (math.isfinite(phase.lr) and phase.lr > 0):
            raise UserError(f"{who} has the learning rate {phase.lr}; give a number above 0.")
        given = {key: getattr(phase, key) for key in ends if getattr(phase, key) is not None}
        if number == len(phases):
            if given:
                raise UserError(f"{who} is the last and has an end ({_words(given)}); leave it out.")
        elif len(given) != 1:
            raise UserError(f"{who} needs one end, until_epoch or until_step; it has {_words(given) or 'none'}.")
        for key, end in given.items():
            if end <= ends[key]:
                raise UserError(f"{who} ends at {key} {end}, which is not after {ends[key]}, where it can begin.")
            ends[key] = end


def _words(given: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in given.items())


def __getattr__(name: str) -> Any:
    """Import TTS (5 s) only for the one class that needs it."""
    if name == "GatekeptGPTTrainerConfig":
        from xtts_gatekeeper.coqui_config import GatekeptGPTTrainerConfig

        return GatekeptGPTTrainerConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
