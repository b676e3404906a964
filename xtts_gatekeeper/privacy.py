"""Telemetry-off defaults: the variables that truly switch it off, set before anything that reads them is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

#: Variable -> value that stops the traffic, and who reads it. Each was found in the package's source; variables that
#: look right and do nothing (TRAINER_TELEMETRY_DISABLED, DO_NOT_TRACK for the trainer) are left out on purpose.
TELEMETRY_OFF: dict[str, str] = {
    "TRAINER_TELEMETRY": "0",  # trainer 0.0.27-0.0.36: a GET at the end of Trainer.__init__
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow >= 3.2
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers 5: background conversion request
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio
    "RAY_USAGE_STATS_ENABLED": "0",  # ray
    "WANDB_ERROR_REPORTING": "false",  # wandb: error reports only, runs are the user's wish
}

#: Variable -> module that reads it once, at import: setting it later changes nothing.
_READ_AT_IMPORT = {
    "TRAINER_TELEMETRY": "trainer",
    "MLFLOW_DISABLE_TELEMETRY": "mlflow",
    "HF_HUB_DISABLE_TELEMETRY": "huggingface_hub",
    "DISABLE_SAFETENSORS_CONVERSION": "transformers",
    "GRADIO_ANALYTICS_ENABLED": "gradio",
}

_too_late: tuple[str, ...] = ()


def switch_telemetry_off(environ: MutableMapping[str, str] | None = None) -> None:
    """Set every default of `TELEMETRY_OFF` that the user has not set to something else.

    Remembers which variables came too late because their reader was imported before us (see `too_late`).
    """
    global _too_late
    environ = os.environ if environ is None else environ
    _too_late += tuple(
        variable for variable, module in _READ_AT_IMPORT.items() if variable not in environ and module in sys.modules
    )
    for variable, value in TELEMETRY_OFF.items():
        environ.setdefault(variable, value)


def too_late() -> tuple[str, ...]:
    """Variables that were set only after the package that reads them had been imported."""
    return _too_late


def state() -> dict[str, str]:
    """The telemetry variables as they are in effect, for the baseline record."""
    return {variable: os.environ.get(variable, "") for variable in TELEMETRY_OFF}
