"""Where a Trainer stands, how to speak through it, and how to hook into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.trainer_port.updates import Updates


class BasePort:
    """One Trainer: what the other parts of the port build on."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.in_step = False
        #: Training steps done in the current epoch; of the last one while it is evaluated.
        self.step_in_epoch = 0
        self.updates = Updates(trainer)
        self._frozen: list[Any] = []
        self._passed_over = 0

    @property
    def run_folder(self) -> Path:
        """The folder the Trainer really uses: `output_path/run_name-date-commit`."""
        return Path(self.trainer.output_path)

    @property
    def step(self) -> int:
        """GLOBAL_STEP: micro-batches done."""
        return int(self.trainer.total_steps_done)

    @property
    def steps_trained(self) -> int:
        """Micro-batches whose effect the weights hold: inside a step the counter is one behind.

        The Trainer saves inside a step, so its `checkpoint_N` holds N + 1, while its `best_model_N` holds N.
        """
        return self.step + self.in_step

    @contextlib.contextmanager
    def before_counting(self) -> Iterator[None]:
        """The step just done counts as under way, as when the Trainer saves: names and numbers in files are its own."""
        self.trainer.total_steps_done -= 1
        self.in_step = True
        try:
            yield
        finally:
            self.in_step = False
            self.trainer.total_steps_done += 1

    @property
    def epoch(self) -> int:
        """The epoch as the Trainer prints it, from 0."""
        return int(self.trainer.epochs_done)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return int(self.trainer.args.rank or 0) == 0

    @property
    def continued(self) -> bool:
        """Whether the run goes on in its own folder (`continue_path`)."""
        return bool(self.trainer.continue_run)

    @property
    def resumed_from(self) -> str | None:
        """The checkpoint that was loaded, if any."""
        return self.trainer.args.restore_path or None

    def resume_from(self, file: Path) -> None:
        """Choose the checkpoint; only before the Trainer has loaded it."""
        self.trainer.args.restore_path = str(file)

    @property
    def starts_with_evaluation(self) -> bool:
        """Whether the first epoch of this process evaluates and does not train."""
        return bool(self.trainer.start_with_eval)

    @property
    def config(self) -> Any:
        """The Coqui config. `load_json` replaces its sections: read them anew, never keep a reference."""
        return self.trainer.config

    def log(self, message: str) -> None:
        """A line in the Trainer's own log and on the console."""
        logging.getLogger("trainer").info(" > gatekeeper: %s", message)

    def dashboard_scalars(self, scope: str, values: Mapping[str, float], step: int | None = None) -> None:
        """Log `scope/name` for every value to the Trainer's dashboard, by default at the current step."""
        self.trainer.dashboard_logger.add_scalars(scope, dict(values), self.step if step is None else step)

    def dashboard_audio(self, title: str, audio: Any, rate: int, step: int) -> None:
        """Log mono audio, an array of float32 between -1 and 1 at `rate` Hz, to the Trainer's dashboard."""
        self.trainer.dashboard_logger.add_audio(title, audio, step, rate)

    def dashboard_figure(self, title: str, figure: Any) -> None:
        """Log a matplotlib figure to the Trainer's dashboard, at the current step."""
        self.trainer.dashboard_logger.add_figure(title, figure, self.step)

    def dashboard_text(self, title: str, text: str) -> None:
        """Log a text to the Trainer's dashboard, at the current step."""
        self.trainer.dashboard_logger.add_text(title, text, self.step)

    # Hooks

    def wrap(self, name: str, around: Callable[..., Any]) -> None:
        """Replace the instance method `name` by `around(original, *args, **kwargs)`."""
        original = getattr(self.trainer, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(self.trainer, name, wrapped)

    def around_updates(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        """Call `before(number)` and `after(number)` around every update of optimizer `number`."""
        self.updates.around(before, after)

    @property
    def optimizers(self) -> list[Any]:
        """The torch optimizers, Accelerate's wrappers taken off."""
        return [getattr(optimizer, "optimizer", optimizer) for optimizer in self.trainer.optimizer]
