"""A toy that speaks, loaded by itself."""

import pytest


@pytest.fixture(scope="session")
def xtts(speaking_base):
    """An `Xtts` as it is inside of a trainer between two steps: no inference layers, the GPT in training mode."""
    import torch

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.checkpoints.source import build_xtts

    settings = {"model": "xtts", "model_args": read_base(speaking_base).model_args()}
    model = build_xtts(settings, speaking_base / "vocab.json")
    model.load_state_dict(torch.load(speaking_base / "model.pth", weights_only=True)["model"])
    model.train(False)  # eval() of an Xtts adds the inference layers
    model.gpt.train()
    return model


@pytest.fixture(scope="session")
def voice(speech):
    """The voice of the toy speech set."""
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.samples.voice import choose_voice, held_out

    return choose_voice(held_out(load_ljspeech(speech)))
