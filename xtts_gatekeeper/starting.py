"""What is settled when a process begins or goes on with a run: its settings, its clips, what a supervisor asks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.crashes.restart import EXCLUDED, Restart
from xtts_gatekeeper.dataset.guard import look_at_data
from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.dataset.selection import EVAL_CLIPS, leave_out, read_names
from xtts_gatekeeper.dataset.start import look_at_clips
from xtts_gatekeeper.dataset.tokens import encode
from xtts_gatekeeper.dataset.usable import Limits
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.record.events import DataCheck
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.trainer_port import TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.config import GatekeeperConfig

#: So many clips are named in a sentence.
_NAMED = 3


def leave_clips_out(port: TrainerPort, suspects: Sequence[str] = ()) -> list[str]:
    """Train without the clips that the run's `exclude.txt` names, such as those that crashed it.

    Args:
        port: the Trainer.
        suspects: what a supervisor puts on the list of a run that begins anew.

    Returns:
        Sentences for the baseline.
    """
    listed = port.run_folder / FOLDER / EXCLUDED
    samples = port.train_samples
    if suspects and not port.continued and port.is_main:
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{name}\n" for name in suspects), encoding="utf-8")
    if not listed.is_file():
        return []
    if samples is None:
        return [f"gatekeeper/{EXCLUDED} has no effect: the Trainer was given no training samples"]
    try:
        kept, unknown = leave_out(samples, read_names(listed))
    except (UserError, TypeError, KeyError) as error:
        return [f"gatekeeper/{EXCLUDED} has no effect: {error}"]
    port.train_samples = kept
    missing = f"; it names clips that are not there: {', '.join(unknown)}" if unknown else ""
    return [f"{len(samples) - len(kept)} clips are left out, by gatekeeper/{EXCLUDED}{missing}"]


def settle_leaks(port: TrainerPort, answer: str) -> list[str]:
    """Do what is to be done about eval clips that are trained on, or that the weights were trained on before.

    Args:
        port: the Trainer; what it is to resume from is settled.
        answer: `warn`, for which nothing is done here, `exclude` or `refuse`.

    Returns:
        Sentences for the baseline.

    Raises:
        UserError: there are such clips and they are refused, or no other clip would be left to evaluate with.
    """
    samples = port.eval_samples
    if answer == "warn" or samples is None:
        return []
    leaks = look_at_data(port, samples, Roster(port.run_folder)).leaks or ()
    if not leaks:
        return []
    named = ", ".join(Path(name).name for name in leaks[:_NAMED]) + (", ..." if len(leaks) > _NAMED else "")
    clips = f"{len(leaks)} of {len(samples)} eval clips are trained on, or were before: {named}"
    if answer == "refuse":
        raise UserError(f"{clips}; take them out of one of the two, or set gatekeeper.dataset.leaks to exclude.")
    known = set(leaks)
    kept = [sample for sample in samples if str(sample["audio_file"]) not in known]
    if not kept:
        raise UserError(f"{clips}; without them there is none left to evaluate with.")
    port.eval_samples = kept
    return [f"evaluations leave out {clips}"]


def audit_clips(port: TrainerPort) -> tuple[DataCheck | None, list[str]]:
    """Look at every clip that the Trainer was given; nothing where it was given none of Coqui's samples.

    Returns:
        An event for the record, and sentences for the baseline.
    """
    train, held_out = port.train_samples, port.eval_samples or []
    if not train:
        return None, []
    tokenizer = port.tokenizer
    try:
        if tokenizer is None:
            found = look_at_clips(train, held_out, None, None, port.log)
        else:
            limits = Limits.of_config(port.config.to_dict())
            found = look_at_clips(train, held_out, limits, partial(encode, tokenizer), port.log)
    except (KeyError, TypeError):
        return None, []
    except Exception as error:  # beside the training: what it finds is advice
        return None, [f"the clips could not be looked at: {type(error).__name__}: {error}"]
    event = DataCheck(
        step=port.step,
        epoch=port.epoch,
        clips=found.clips,
        seconds=found.seconds,
        faults=found.faults,
        unusable=found.unusable,
        near=[list(pair) for pair in found.near],
    )
    return event, found.warnings


def begin_again(restart: Restart, run: str, port: TrainerPort, section: GatekeeperConfig) -> None:
    """Do what the supervisor asks of this process, which is to go on with `run`, or to begin one where that is empty.

    Raises:
        UserError: the recipe begins another run than the one to go on with.
    """
    if run and port.run_folder.resolve() != Path(run).resolve():
        raise UserError(
            f"this process was started anew to go on with {run} and begins {port.run_folder}: its Trainer parses no "
            "command line; hand --continue_path on to it, as TrainerArgs(continue_path=...)."
        )
    if restart.eval_batch_size is not None and run and run == restart.runs[-1]:
        port.config.eval_batch_size = restart.eval_batch_size
    if restart.spare_memory:
        section.checkpoints.asynchronous = False


def check_device(before: Start | None, port: TrainerPort, *, supervised: bool) -> list[str]:
    """Say when a run that goes on has lost its GPU: the Trainer would train on without a word, at a crawl.

    Args:
        before: the run's last start.
        port: the Trainer, its model on its device.
        supervised: whether a supervisor has started this process; it tries again and then gives up.

    Returns:
        Sentences for the baseline.

    Raises:
        RuntimeError: the GPU is gone, and a supervisor is there to be told.
    """
    if before is None or not (before.device or "").startswith("cuda") or port.device.startswith("cuda"):
        return []
    said = f"the run trained on {before.device} until now, and this process would train on {port.device}"
    if supervised and port.continued:
        raise RuntimeError(f"No CUDA GPUs are available: {said}")
    return [said] if port.continued else []


def settle_section(port: TrainerPort, section: GatekeeperConfig, *, from_config: bool) -> list[str]:
    """Put the section that `gatekeep()` was given in effect; say where it differs from the run's earlier one.

    On `continue_path` the Trainer loads the run's own config.json over the script's values, and one value of a wrong
    type there resets the whole section to its defaults. What the script and the command line say now counts.

    Args:
        port: the Trainer.
        section: what `gatekeep()` was given.
        from_config: whether it is a part of the config.
    """
    if from_config:
        port.config.gatekeeper = section
    earlier: dict[str, Any] = {}
    if port.continued:
        with contextlib.suppress(OSError, ValueError):  # none, or damaged: then there is nothing to compare with
            earlier = json.loads((port.run_folder / FOLDER / "config.json").read_text(encoding="utf-8"))
    if not earlier:
        return []
    # Any flag makes coqpit turn other empty settings into None; empty is empty.
    changed = [key for key, value in section.to_dict().items() if (value or None) != (earlier.get(key) or None)]
    said = ", ".join(f"gatekeeper.{key}" for key in changed)
    return [f"changed since the run's last start: {said}"] if changed else []


def keep_settings(folder: Path, section: GatekeeperConfig, policy: Policy, eval_samples: Sequence[Any] | None) -> None:
    """Copy settings and rules beside the journal: a stock run that continues the folder drops our section.

    The held-out clips, too: an export and fixed prompts take their reference speech from them.
    """
    keys = ("audio_file", "text", "language", "speaker_name")
    clips = [{key: clip[key] for key in keys if key in clip} for clip in eval_samples or () if isinstance(clip, dict)]
    (folder / EVAL_CLIPS).write_text(json.dumps(clips, indent=1, default=str), encoding="utf-8")
    (folder / "policy.yaml").write_text(policy.text, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(section.to_dict(), indent=4), encoding="utf-8")
