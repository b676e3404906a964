"""Phase 2 of an XTTS fine-tuning: a new run from phase 1's best or latest checkpoint, at LR 1e-6, under gates.

    python recipes/train_phase2.py --phase1 runs/xtts_phase1-... --data data/my-voice --language en

The weights come from phase 1 (`restore_path`); optimizer and step counter begin anew and the learning rate is the one
given here, proven at the first update. Use the data of phase 1: with other clips the evaluations cannot be compared.
"""

import argparse
from pathlib import Path

from xtts_gatekeeper import gatekeep  # before trainer and TTS: sets telemetry-off defaults
from xtts_gatekeeper.base import resolve_base
from xtts_gatekeeper.checkpoints.resume import resume_file
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.errors import UserError, refusing
from xtts_gatekeeper.recipe import go_on, goes_on, load_clips, parse_flags, recipe_parser


def phase1_checkpoint(args: argparse.Namespace) -> Path:
    phase1 = args.phase1 or (None if args.resume in (None, "auto") else Path(args.resume))
    if phase1 is None:
        raise UserError("phase 2 begins with phase 1's weights: give its run by --phase1 or --resume.")
    return resume_file(phase1, args.resume_from)


def main() -> None:
    parser = recipe_parser(__doc__, lr=1e-6, resumes=False)
    parser.add_argument("--phase1", type=Path, metavar="RUN|CKPT", help="phase 1's run folder, or one checkpoint file")
    parser.add_argument(
        "--resume",
        metavar="auto|RUN|CKPT",
        help="auto: go on with the newest run of this recipe in --output, if any; else the same as --phase1",
    )
    parser.add_argument("--resume-from", choices=("best", "latest"), default="best", help="(default: %(default)s)")
    args = parse_flags(parser)
    go_on("auto" if args.resume == "auto" else None, args.output, "xtts_phase2")
    checkpoint = "" if goes_on("xtts_phase2") else str(phase1_checkpoint(args))
    train_samples, eval_samples = load_clips(args)
    gatekeeper = GatekeeperConfig(
        policy=args.policy,
        phases=[PhaseConfig(name="phase 2", lr=args.lr)],
        actions=ActionsConfig(stop=not args.no_stop),
    )
    gatekeeper.check()

    # Slow imports, after everything that can be checked without them.
    import torch
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    from xtts_gatekeeper.config import GatekeptGPTTrainerConfig

    base = resolve_base(args.base, cache=args.output)
    config = GatekeptGPTTrainerConfig(
        output_path=str(args.output),
        run_name="xtts_phase2",
        model_args=GPTArgs(**base.model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=args.epochs,
        batch_size=args.batch_size,
        eval_batch_size=args.batch_size,
        num_loader_workers=args.workers,
        save_step=args.save_step,
        print_step=25,
        optimizer="AdamW",
        optimizer_wd_only_on_weights=True,
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=args.lr,
        gatekeeper=gatekeeper,
    )
    callbacks = gatekeep(config)
    torch.manual_seed(config.training_seed)  # the toy begins with random weights
    trainer = Trainer(
        TrainerArgs(restore_path=checkpoint, grad_accum_steps=args.grad_accum),
        config,
        model=GPTTrainer(config),
        train_samples=train_samples,
        eval_samples=eval_samples,
        callbacks=callbacks,
    )
    trainer.fit()


if __name__ == "__main__":
    with refusing():
        main()
