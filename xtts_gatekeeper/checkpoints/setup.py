"""From the `checkpoints` section of the settings to a keeper that is ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xtts_gatekeeper.checkpoints.keeper import CheckpointKeeper, Saving
from xtts_gatekeeper.checkpoints.remote import Mirror, check_remote
from xtts_gatekeeper.checkpoints.retention import DEFAULT, parse_policy, split_terms
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.config import CheckpointsConfig


def make_mirror(settings: CheckpointsConfig, port: TrainerPort, recorder: Recorder) -> Mirror | None:
    """What keeps a copy of the run elsewhere, running; None when nothing like it is asked for.

    Raises:
        UserError: it cannot be reached or written.
    """
    if not settings.remote:
        return None
    check_remote(settings.remote)
    mirror = Mirror(port.run_folder, settings.remote, recorder.record, log=port.log)
    mirror.start()
    return mirror


def make_keeper(
    settings: CheckpointsConfig,
    port: TrainerPort,
    policy: Policy,
    recorder: Recorder,
    warnings: list[str],
    after_change: Callable[[], None],
) -> CheckpointKeeper:
    """The keeper of a run, once it is clear that the disk has room for what it will write.

    Args:
        settings: our section's part on checkpoints.
        port: the Trainer, ready to train.
        policy: the rules in force; its objective picks the best.
        recorder: the live record.
        warnings: a sentence is added when not all that is to be kept will have room.
        after_change: called when files have been written or deleted.

    Raises:
        UserError: there is no room for the least that a run needs, or the budget is below it.
    """
    budget = None if settings.disk_budget_gb is None else round(settings.disk_budget_gb * 1e9)
    saving = Saving(
        policy=parse_policy(split_terms(settings.keep) or DEFAULT),
        budget=budget,
        asynchronous=settings.asynchronous,
        pause_seconds=settings.full_disk_pause_minutes * 60,
    )
    keeper = CheckpointKeeper(port, policy.objective, recorder.record, recorder.seen, saving, after_change)
    foreseen = keeper.foresee(port.planned_steps, len(policy.gates))
    if not foreseen.fits_floor:
        raise UserError(f"the disk has no room for this run: {foreseen}.")
    if budget is not None and foreseen.checkpoint + foreseen.weights > budget:
        raise UserError(f"checkpoints.disk_budget_gb {settings.disk_budget_gb:g} is too small: {foreseen}.")
    if not foreseen.fits:
        warnings.append(f"the disk has no room for all that is to be kept, the oldest will go first: {foreseen}")
    port.log(f"disk: {foreseen}")
    keeper.begin()
    return keeper
