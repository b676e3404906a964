"""The rules: small pure dataclasses that look at a record and say what they find. One file each, found by its name."""

from __future__ import annotations

from typing import Any

from xtts_gatekeeper.gates.rules.base import Finding, Rule, Status, When
from xtts_gatekeeper.gates.rules.checkpoint_intact import CheckpointIntact
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf, AtLeast
from xtts_gatekeeper.gates.rules.comparable import Comparable
from xtts_gatekeeper.gates.rules.divergence import Divergence
from xtts_gatekeeper.gates.rules.ears_agree import EarsAgree
from xtts_gatekeeper.gates.rules.finite import Finite
from xtts_gatekeeper.gates.rules.gradients import Gradients
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.learning_rate import LearningRate
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.memory_growth import MemoryGrowth
from xtts_gatekeeper.gates.rules.nan_repeated import NanRepeated
from xtts_gatekeeper.gates.rules.no_leak import NoLeak
from xtts_gatekeeper.gates.rules.not_regressed import NotRegressed
from xtts_gatekeeper.gates.rules.not_worsening import NotWorsening
from xtts_gatekeeper.gates.rules.out_of_memory import OutOfMemory
from xtts_gatekeeper.gates.rules.overfit import Overfit
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.gates.rules.runtime import Runtime
from xtts_gatekeeper.gates.rules.slowing import Slowing
from xtts_gatekeeper.gates.rules.spike import Spike
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.threshold import Threshold
from xtts_gatekeeper.gates.rules.trend import Trend

#: The name of a rule in a policy file, which is also its reason code.
RULES: dict[str, type[Any]] = {
    "finite": Finite,
    "nan_repeated": NanRepeated,
    "divergence": Divergence,
    "not_worsening": NotWorsening,
    "trend": Trend,
    "improved": Improved,
    "not_regressed": NotRegressed,
    "plateau": Plateau,
    "slowing": Slowing,
    "overfit": Overfit,
    "ears_agree": EarsAgree,
    "spike": Spike,
    "target": Target,
    "threshold": Threshold,
    "gradients": Gradients,
    "memory": Memory,
    "memory_growth": MemoryGrowth,
    "out_of_memory": OutOfMemory,
    "checkpoint_intact": CheckpointIntact,
    "learning_rate": LearningRate,
    "runtime": Runtime,
    "comparable": Comparable,
    "no_leak": NoLeak,
    "all_of": AllOf,
    "any_of": AnyOf,
    "at_least": AtLeast,
}

__all__ = ["RULES", "Finding", "Rule", "Status", "When"]
