"""A recipe with the one-line model, which faults can be planted in: `python line_recipe.py OUTPUT [flags]`."""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]

from lines import Line, LineConfig  # noqa: E402
from trainer import Trainer, TrainerArgs  # noqa: E402

from xtts_gatekeeper import gatekeep  # noqa: E402
from xtts_gatekeeper.config import GatekeeperConfig  # noqa: E402


def main():
    from faults import plant

    settings = json.loads(os.environ.get("LINE", "{}"))
    section = GatekeeperConfig.new_from_dict(settings.pop("gatekeeper", {}))
    output = sys.argv.pop(1)
    values = {"epochs": 5, "lr": 0.1, "print_step": 1000, "save_step": 3, "run_name": "line", **settings}
    config = LineConfig(output_path=output, **values)
    callbacks = gatekeep(config, {"on_init_end": plant}, gatekeeper=section)
    trainer = Trainer(TrainerArgs(), config, model=Line(), callbacks=callbacks)
    trainer.fit()
    print(f"TRAINED {trainer.total_steps_done}", flush=True)


if __name__ == "__main__":
    main()
