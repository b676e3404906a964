"""All knowledge of the Coqui Trainer's internals; nothing outside this folder reaches into its objects."""

from xtts_gatekeeper.trainer_port.device import Memory
from xtts_gatekeeper.trainer_port.port import TRAINER_FLAGS, StopTraining, TrainerPort
from xtts_gatekeeper.trainer_port.position import random_states, set_random_states
from xtts_gatekeeper.trainer_port.process import (
    check_rank,
    config_in_one_step,
    discard_run_folder,
    is_distributed,
    keep_run_folders,
    release_memory,
    unchanged_rng,
    unique_run_folders,
)
from xtts_gatekeeper.trainer_port.updates import Updates, clips_in, is_lost_worker, is_out_of_memory, split

__all__ = [
    "TRAINER_FLAGS",
    "Memory",
    "StopTraining",
    "TrainerPort",
    "Updates",
    "check_rank",
    "clips_in",
    "config_in_one_step",
    "discard_run_folder",
    "is_distributed",
    "is_lost_worker",
    "is_out_of_memory",
    "keep_run_folders",
    "random_states",
    "release_memory",
    "set_random_states",
    "split",
    "unchanged_rng",
    "unique_run_folders",
]
