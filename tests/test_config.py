"""The `gatekeeper` section: round trip and strict reading."""

import json
from dataclasses import dataclass, field

import pytest
from coqpit import Coqpit

from xtts_gatekeeper.config import ActionsConfig, CheckpointsConfig, GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.errors import UserError


@dataclass
class Config(Coqpit):
    lr: float = 1.0
    gatekeeper: GatekeeperConfig = field(default_factory=GatekeeperConfig)


SECTION = GatekeeperConfig(
    watch_only=True,
    metrics={"mel_ce": "loss_mel"},
    policy="mine.yaml",
    phases=[PhaseConfig(name="a", lr=1e-5, until_step=7), PhaseConfig(lr=1e-6)],
    actions=ActionsConfig(stop=True),
    checkpoints=CheckpointsConfig(prune=False),
)


def test_the_section_survives_the_configs_json(tmp_path):
    Config(gatekeeper=SECTION).save_json(tmp_path / "config.json")
    loaded = Config()
    loaded.load_json(tmp_path / "config.json")
    assert loaded.gatekeeper == SECTION


def test_a_config_without_the_section_keeps_its_own():
    config = Config(gatekeeper=SECTION)
    config.from_dict({"lr": 2.0})
    assert config.gatekeeper == SECTION


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"polcy": "x"}, "unknown key 'polcy' in GatekeeperConfig, did you mean 'policy'?"),
        ({"actions": {"stpo": True}}, "unknown key 'stpo' in ActionsConfig, did you mean 'stop'?"),
        ({"phases": [{"lr": 1e-5, "until": 3}]}, "unknown key 'until' in PhaseConfig"),
        ({"policy": 3}, "GatekeeperConfig cannot be read"),
        ({"enabled": "yes"}, "GatekeeperConfig cannot be read"),
    ],
)
def test_a_wrong_key_or_type_in_the_json_is_one_sentence(tmp_path, capsys, section, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"lr": 1.0, "gatekeeper": section}))
    with pytest.raises(SystemExit) as exit_:
        Config().load_json(path)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("settings", [{"watch_only": True}, {"checkpoints": {"prune": False}}])
def test_a_remote_copy_of_files_that_are_not_ours_is_refused_not_forgotten(settings):
    checkpoints = CheckpointsConfig(remote="s3://bucket/runs", **settings.get("checkpoints", {}))
    section = GatekeeperConfig(checkpoints=checkpoints, watch_only=settings.get("watch_only", False))
    with pytest.raises(UserError, match="copies the files that we write"):
        section.check()
