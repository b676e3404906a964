"""Fine-tune XTTS in two learning-rate phases in one run, under gates.

    python recipes/train_two_phase.py --data data/my-voice --language en --base xtts-v2

Phase 1 trains at 1.5e-6, phase 2 at 1e-6 with a warm optimizer. The run keeps its latest checkpoint and its best,
prints a verdict after every evaluation, and ends by itself when that is `stop`. Look at it any time with
`xtts-gatekeeper status RUN` and `xtts-gatekeeper gate RUN`.
"""

from xtts_gatekeeper import gatekeep  # before trainer and TTS: sets telemetry-off defaults
from xtts_gatekeeper.base import resolve_base
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.errors import refusing
from xtts_gatekeeper.recipe import go_on, load_clips, parse_flags, recipe_parser


def main() -> None:
    parser = recipe_parser(__doc__, lr=None)
    parser.add_argument("--lr1", type=float, default=1.5e-6, help="learning rate of phase 1 (default: %(default)s)")
    parser.add_argument("--lr2", type=float, default=1e-6, help="learning rate of phase 2 (default: %(default)s)")
    parser.add_argument("--switch-epoch", type=int, help="first epoch of phase 2 (default: half of --epochs)")
    parser.add_argument("--switch-step", type=int, help="first step of phase 2, instead of --switch-epoch")
    args = parse_flags(parser)
    train_samples, eval_samples = load_clips(args)
    if args.switch_epoch is None and args.switch_step is None:
        args.switch_epoch = max(1, args.epochs // 2)
    gatekeeper = GatekeeperConfig(
        policy=args.policy,
        phases=[
            PhaseConfig(name="phase 1", lr=args.lr1, until_epoch=args.switch_epoch, until_step=args.switch_step),
            PhaseConfig(name="phase 2", lr=args.lr2),
        ],
        actions=ActionsConfig(stop=not args.no_stop),
    )
    gatekeeper.check()
    go_on(args.resume, args.output, "xtts_two_phase")

    # Slow imports, after everything that can be checked without them.
    import torch
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    from xtts_gatekeeper.config import GatekeptGPTTrainerConfig

    base = resolve_base(args.base, cache=args.output)
    config = GatekeptGPTTrainerConfig(
        output_path=str(args.output),
        run_name="xtts_two_phase",
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
        lr=args.lr1,
        gatekeeper=gatekeeper,
    )
    callbacks = gatekeep(config)
    torch.manual_seed(config.training_seed)  # the toy begins with random weights
    trainer = Trainer(
        TrainerArgs(grad_accum_steps=args.grad_accum),
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
