"""Gates, learning-rate phases, checkpoint pruning and telemetry-off defaults for the stock Coqui Trainer.

Importing this package sets the telemetry-off defaults (see `privacy`), so import it before `trainer` and `TTS`.
Nothing heavy is imported until a name is used: the offline verbs need neither torch nor TTS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_gatekeeper import privacy

if TYPE_CHECKING:
    from xtts_gatekeeper.gates import Policy, Verdict, evaluate, load_policy
    from xtts_gatekeeper.plugin import gatekeep
    from xtts_gatekeeper.record import RunRecord
    from xtts_gatekeeper.record.sources import read_run

__version__ = "0.1.0"

_HOMES = {
    "gatekeep": "plugin",
    "RunRecord": "record",
    "read_run": "record.sources",
    "Policy": "gates",
    "Verdict": "gates",
    "evaluate": "gates",
    "load_policy": "gates",
}

__all__ = ["Policy", "RunRecord", "Verdict", "__version__", "evaluate", "gatekeep", "load_policy", "read_run"]

privacy.switch_telemetry_off()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
