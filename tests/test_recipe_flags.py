import dataclasses

import pytest

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.recipe import parse_flags, recipe_parser
from xtts_gatekeeper.trainer_port import TRAINER_FLAGS


def parse(line, lr=1e-6):
    return parse_flags(recipe_parser("What it does.", lr), line.split())


def test_the_defaults_are_those_of_the_phase_2_report():
    args = parse("--data clips")
    assert (args.lr, args.batch_size, args.epochs) == (1e-6, 3, 30)
    assert (args.grad_accum, args.policy, args.no_stop, args.language) == (1, "checklist", False, "en")


def test_every_flag_given_is_taken():
    line = "--data d --language ru --base toy --output o --lr 2e-6 --epochs 4 --batch-size 2 --grad-accum 8"
    args = parse(f"{line} --eval-fraction 0.2 --save-step 50 --workers 1 --policy mine.yaml --no-stop")
    assert (str(args.data), args.language, args.base, str(args.output), args.lr) == ("d", "ru", "toy", "o", 2e-6)
    assert (args.epochs, args.batch_size, args.grad_accum, args.eval_fraction) == (4, 2, 8, 0.2)
    assert (args.save_step, args.workers, args.policy, args.no_stop) == (50, 1, "mine.yaml", True)


@pytest.mark.parametrize(
    "flags",
    [
        "--continue_path runs/a",
        "--continue_path=runs/a",
        "--coqpit.gatekeeper.policy x.yaml",
        "--coqpit.lr=1e-5 --grad_accum_steps 4",
        "--use_ddp true --rank 0 --group_id g",
        "--coqpit.epochs 3 --epochs 5",
        "--coqpit.training_seed -5",
    ],
)
def test_flags_of_the_stock_trainer_are_let_through(flags):
    assert str(parse(f"--data d {flags}").data) == "d"


def test_the_stock_flags_are_all_that_this_trainer_has():
    trainer = pytest.importorskip("trainer", reason="the train extra is not installed")
    assert sorted(TRAINER_FLAGS) == sorted(f"--{field.name}" for field in dataclasses.fields(trainer.TrainerArgs))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--polcy x", "unknown flag --polcy, did you mean '--policy'?"),
        ("--epoch 5", "unknown flag --epoch, did you mean '--epochs'?"),
        ("--batch_size=5", "unknown flag --batch_size, did you mean '--batch-size'?"),
        ("--continue-path x", "unknown flag --continue-path, did you mean '--continue_path'?"),
        ("--coqpit", "unknown flag --coqpit"),
        ("stray", "'stray' belongs to no flag"),
        ("--epochs 0", "--epochs is 0; it must be 1 or more"),
        ("--epochs -3", "--epochs is -3"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--grad-accum 0", "--grad-accum is 0"),
        ("--save-step 0", "--save-step is 0"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--epochs 2.5", "invalid int value: '2.5'"),
        ("--lr fast", "argument --lr: invalid float value: 'fast'"),
        ("--lr", "argument --lr: expected one argument"),
    ],
)
def test_a_mistake_is_one_sentence(flags, sentence):
    with pytest.raises(UserError) as caught:
        parse(f"--data d {flags}")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_data_must_be_given():
    with pytest.raises(UserError, match="--data"):
        parse("")


def test_a_recipe_without_one_learning_rate_does_not_know_the_flag():
    with pytest.raises(UserError, match="unknown flag --lr"):
        parse("--data d --lr 1e-6", lr=None)


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--help")
    told = capsys.readouterr().out
    assert left.value.code == 0
    for word in ("What it does.", "1e-06", "default: 30", "default: 3)", "--continue_path RUN"):
        assert word in told
