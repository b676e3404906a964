"""Phase 1 of an XTTS fine-tuning as a run of its own: LR 1.5e-6, under gates.

    python recipes/train_phase1.py --data data/my-voice --language en --base xtts-v2

Go on with train_phase2.py, or do both in one run with train_two_phase.py.
"""

from xtts_gatekeeper import gatekeep  # before trainer and TTS: sets telemetry-off defaults
from xtts_gatekeeper.base import resolve_base
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.errors import refusing
from xtts_gatekeeper.recipe import go_on, load_clips, parse_flags, recipe_parser


def main() -> None:
    args = parse_flags(recipe_parser(__doc__, lr=1.5e-6))
    train_samples, eval_samples = load_clips(args)
    gatekeeper = GatekeeperConfig(
        policy=args.policy,
        phases=[PhaseConfig(name="phase 1", lr=args.lr)],
        actions=ActionsConfig(stop=not args.no_stop),
    )
    gatekeeper.check()
    go_on(args.resume, args.output, "xtts_phase1")

    # Slow imports, after everything that can be checked without them.
    import torch
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    from xtts_gatekeeper.config import GatekeptGPTTrainerConfig

    base = resolve_base(args.base, cache=args.output)
    config = GatekeptGPTTrainerConfig(
        output_path=str(args.output),
        run_name="xtts_phase1",
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
