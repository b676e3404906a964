"""The stock XTTS training config with our section. Imports TTS; use it through `xtts_gatekeeper.config`."""

from dataclasses import dataclass, field

from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainerConfig

from xtts_gatekeeper.config import GatekeeperConfig


@dataclass
class GatekeptGPTTrainerConfig(GPTTrainerConfig):
    """`GPTTrainerConfig` plus `gatekeeper`. The stock stack reads its JSON as it reads its own."""

    gatekeeper: GatekeeperConfig = field(default_factory=GatekeeperConfig)
