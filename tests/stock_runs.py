"""Run folders with small real checkpoints, as the stock Trainer leaves them: config, console log, files."""

import json
from pathlib import Path

import torch
from trainer.io import save_model

SETTINGS = {"run_name": "voice", "output_path": "/data/runs", "save_all_best": False}


def write(path, step=None, *, optimizer=True, loss=None, settings=SETTINGS, size=8, spoil=None):
    """A checkpoint as the Trainer saves it, of the step in its name; `loss` are its train and eval loss."""
    torch.manual_seed(step or 0)
    model = torch.nn.Linear(size, size)
    adam = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    adam.step()
    if spoil is not None:
        with torch.no_grad():
            spoil(model)
    step = int("".join(c for c in path.name if c in "0123456789") or 0) if step is None else step
    train, evaluated = loss or (1.0, None)
    save_model(
        dict(settings),
        model,
        path,
        current_step=step,
        epoch=0,
        optimizer=[adam] if optimizer else None,
        model_loss={"train_loss": train, "eval_loss": evaluated},
    )
    if not optimizer:
        state = torch.load(path, weights_only=True)
        torch.save({k: v for k, v in state.items() if k not in ("optimizer", "scheduler", "scaler")}, path)
    return path


def epoch(number, mel, folder, *, steps=10, saved=(), best=None, base=None):
    """The log of an epoch of `steps` batches; checkpoints of the steps `saved` in it, and the number of its best.

    `base`: the step at which it begins, after a resume.
    """
    base = number * steps if base is None else base
    text = f"\n\x1b[4m\x1b[1m > EPOCH: {number}/99\x1b[0m\n --> {folder}\n"
    text += "\n\x1b[1m > TRAINING (2031-02-03 04:05:06) \x1b[0m\n"
    for s in sorted({0, steps - 1, *(n - base for n in saved)}):
        text += f"\n\x1b[1m   --> STEP: {s}/{steps - 1} -- GLOBAL_STEP: {base + s}\x1b[0m\n"
        text += f"     | > loss_mel_ce: {mel:.4f}  ({mel:.4f})\n     | > loss: {mel:.4f}  ({mel:.4f})\n"
        text += "     | > current_lr: 5e-06 \n\n"
        if base + s in saved:
            text += f"\n > CHECKPOINT : {folder}/checkpoint_{base + s}.pth\n"
    text += "\n\x1b[1m > EVALUATION \x1b[0m\n\n\n  \x1b[1m--> EVAL PERFORMANCE\x1b[0m\n"
    text += f"     | > avg_loss_mel_ce: {mel:.4f} (-0.1)\n     | > avg_loss: {mel:.4f} (-0.1)\n\n"
    return text + (f" > BEST MODEL : {folder}/best_model_{best}.pth\n" if best is not None else "")


def restarted(folder, step):
    """What a process prints that goes on from a checkpoint of the run."""
    return f" > Training Environment:\n | > Precision: float32\n > Restoring from checkpoint_{step}.pth ...\n"


def stock_run(folder: Path, log: str | None, *names, settings=SETTINGS, losses=None):
    """A run folder of the stock Trainer with these files; `losses` by name for those whose own the test reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    if log is not None:
        (folder / "trainer_0_log.txt").write_text(log)
    for name in names:
        write(folder / name, loss=(losses or {}).get(name))
    return folder


def names(run):
    """The files and links in a run folder, without its config and log."""
    return sorted(
        p.name for p in run.iterdir() if (p.is_symlink() or p.is_file()) and p.suffix not in (".json", ".txt")
    )


def flip_weight(path):
    """Flip a bit of a tensor."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[record.header_offset + 130] ^= 1
    path.write_bytes(data)
