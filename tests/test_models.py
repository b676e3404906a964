"""Which metric plays which role: for every kind of model, with the names that it logs under the stock Trainer."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from records import logged, record_of, scored

from xtts_gatekeeper.record.models import HIGHER_IS_BETTER, MODELS, ROLES, known_metrics, model_of, resolve
from xtts_gatekeeper.record.names import named_metrics

XTTS = ("loss", "loss_text_ce", "loss_mel_ce")
VITS_LOSSES = ("loss_gen", "loss_kl", "loss_feat", "loss_mel", "loss_duration", "loss_disc", "loss_disc_real_0")
FAST = ("loss_ssim", "loss_spec", "loss_dur", "loss_pitch", "loss_energy", "loss_aligner", "loss_binary_alignment")
CHECKLIST = tuple(f"loss_{name}" for name in ("mel", "total", "duration", "pitch", "energy", "stop"))

#: name -> (model, keys it logs, role -> key)
RUNS = {
    "XTTS": ("XTTS", (*XTTS, "mel_ce", "text_ce"), {"objective": "mel_ce", "total": "loss", "text": "text_ce"}),
    "a table of XTTS": ("XTTS", ("mel_ce",), {"objective": "mel_ce", "mel": "mel_ce", "total": None, "text": None}),
    "VITS": (
        "VITS",
        (*VITS_LOSSES, "loss_0", "loss_1"),
        {"objective": "loss_mel", "total": "loss_1", "mel": "loss_mel", "duration": "loss_duration", "pitch": None},
    ),
    "VITS under the Trainer 0.4": (
        "VITS",
        (*VITS_LOSSES, "loss", "loss-1"),
        {"objective": "loss_mel", "total": "loss-1", "duration": "loss_duration"},
    ),
    "GlowTTS": (
        "GlowTTS",
        ("loss", "log_mle", "loss_dur"),
        {"objective": "loss", "total": "loss", "mel": "log_mle", "duration": "loss_dur", "stop": None},
    ),
    "FastPitch": (
        "ForwardTTS",
        ("loss", *FAST),
        {
            "objective": "loss_spec",
            "total": "loss",
            "mel": "loss_spec",
            "duration": "loss_dur",
            "pitch": "loss_pitch",
            "energy": "loss_energy",
        },
    ),
    "SpeedySpeech": (
        "ForwardTTS",
        ("loss", "loss_ssim", "loss_spec", "loss_dur"),
        {"objective": "loss_spec", "duration": "loss_dur", "pitch": None, "energy": None},
    ),
    "Tacotron 2": (
        "Tacotron",
        ("decoder_loss", "postnet_loss", "stopnet_loss", "ga_loss", "loss"),
        {"objective": "postnet_loss", "total": "loss", "mel": "postnet_loss", "stop": "stopnet_loss"},
    ),
    "Tacotron without a postnet": (
        "Tacotron",
        ("decoder_loss", "stopnet_loss", "loss"),
        {"objective": "decoder_loss", "mel": "decoder_loss", "duration": None},
    ),
    "the checklist's trainer": (
        "other",
        CHECKLIST,
        {
            "objective": "loss_mel",
            "total": "loss_total",
            "mel": "loss_mel",
            "duration": "loss_duration",
            "pitch": "loss_pitch",
            "energy": "loss_energy",
            "stop": "loss_stop",
            "text": None,
        },
    ),
    "DelightfulTTS": (
        "other",
        ("loss", "loss_mel", "loss_duration", "loss_pitch", "loss_energy", "loss_aligner"),
        {"objective": "loss_mel", "total": "loss", "duration": "loss_duration"},
    ),
    "a table of a total": ("other", ("total",), {"objective": "total", "total": "total", "mel": None}),
    "something else": ("other", ("perplexity",), dict.fromkeys(ROLES)),
    "nothing": ("other", (), dict.fromkeys(ROLES)),
}


@pytest.mark.parametrize("side", ["eval", "train"])
@pytest.mark.parametrize("run", RUNS)
def test_every_role_is_played_by_the_metric_that_the_model_logs(run, side):
    model, keys, roles = RUNS[run]
    metrics = frozenset(f"{side}.{key}" for key in keys)
    assert model_of(metrics).name == model
    assert {role: resolve(f"{side}.{role}", metrics) for role in roles} == {
        role: f"{side}.{key}" if key else None for role, key in roles.items()
    }


def test_the_model_is_known_by_what_either_side_logs_and_a_role_stays_on_its_side():
    record = record_of(logged(10, {"eval.loss_mel": 1.0, "train.loss_kl": 1.0, "train.loss_1": 30.0, "eval.loss": 1.0}))
    assert record.model.name == "VITS"
    assert record.resolve("train.total") == "train.loss_1"
    assert record.resolve("eval.total") == "eval.loss"
    assert record.resolve("train.objective") is None


def test_a_policys_own_names_come_first_and_only_where_the_run_has_them():
    metrics = {"eval.mel_ce", "eval.cer", "eval.objective"}
    assert resolve("eval.objective", metrics, {"eval.objective": "eval.cer"}) == "eval.cer"
    assert resolve("eval.objective", metrics, {"eval.objective": "eval.wer"}) == "eval.objective"
    assert resolve("eval.objective", metrics - {"eval.objective"}, {"eval.objective": "eval.wer"}) == "eval.mel_ce"
    record = record_of(logged(10, {"eval.mel_ce": 2.0, "eval.cer": 0.1}))
    assert record.naming({"eval.objective": "eval.cer"}).series("eval.objective").values == (0.1,)
    assert record.series("eval.objective").values == (2.0,)


def test_a_metric_that_the_run_logs_is_itself():
    assert resolve("eval.loss_dur", {"eval.loss_dur"}) == "eval.loss_dur"
    assert resolve("eval.loss_dur", {"train.loss_dur"}) is None
    assert resolve("sample.score", {"sample.score", "eval.mel_ce"}) == "sample.score"


def test_xtts_losses_come_without_the_weights_of_the_recipe():
    metrics = named_metrics("eval", {"loss_mel_ce": 2.0, "loss_text_ce": 0.02, "loss": 2.02})
    assert metrics["eval.mel_ce"] == 2.0
    assert metrics["eval.text_ce"] == pytest.approx(2.0)
    assert metrics["eval.loss"] == 2.02
    assert model_of(metrics).name == "XTTS"


def test_the_rubrics_rows_are_better_when_higher_and_nothing_else_is():
    record = record_of(logged(10, {"eval.mel_ce": 2.0}), scored(0, 20, prosody=4))
    assert record.series("sample.score").losses == (-20,)
    assert record.series("sample.prosody").losses == (-4,)
    assert record.series("eval.mel_ce").losses == (2.0,)
    assert all(name.startswith("sample.") for name in HIGHER_IS_BETTER)


def test_the_last_model_fits_any_run_and_no_other_does():
    assert [model.name for model in MODELS if not model.signature] == [MODELS[-1].name]
    assert {role for model in MODELS for role in model.roles} == set(ROLES)


@pytest.mark.parametrize("run", RUNS)
def test_what_a_role_resolves_to_may_be_named_in_a_policy(run):
    _, _, roles = RUNS[run]
    named = {f"eval.{name}" for role, key in roles.items() for name in (role, key) if name}
    assert named <= known_metrics()


#: The classes in Coqui's losses.py -> the models above that they train.
CLASSES = {
    "TacotronLoss": ["Tacotron 2", "Tacotron without a postnet"],
    "GlowTTSLoss": ["GlowTTS"],
    "VitsGeneratorLoss": ["VITS"],
    "ForwardTTSLoss": ["FastPitch", "SpeedySpeech"],
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_names_are_those_that_coqui_returns(name):
    package = find_spec("TTS")
    if package is None:
        pytest.skip("Coqui TTS is not installed")
    source = (Path(package.submodule_search_locations[0]) / "tts/layers/losses.py").read_text(encoding="utf-8")
    body = re.split(r"^class ", source.partition(f"\nclass {name}(")[2], maxsplit=1, flags=re.M)[0]
    returned = set(re.findall(r'return_dict\["(\w+)"\]', body))
    for run in CLASSES[name]:
        model, _, roles = RUNS[run]
        numbered = {"loss_1", "loss-1"}  # the Trainer's names of `loss` where there are two optimizers
        assert {key for key in roles.values() if key} - numbered <= returned
        assert set(next(m for m in MODELS if m.name == model).signature) <= returned
