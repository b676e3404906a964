"""Reading a TensorBoard event file: tensorboard's `EventAccumulator` and our `TensorBoardParser`, in turns.

    python benchmarks/tensorboard_events.py [--repeats 3] [--scalars 300000]

Writes two files with torch's SummaryWriter in the tags of the Coqui Trainer: one of scalars alone, one with histograms
and audio in between. Prints median and range of both readers, their ratio, and whether the values agree. Measures,
asserts nothing.
"""

import argparse
import math
import random
import statistics
import tempfile
import time
from pathlib import Path

LOSSES = ("loss_text_ce", "loss_mel_ce", "loss")
STEP_TAGS = ("current_lr", *LOSSES, "step_time", "loader_time")
STEPS_PER_EPOCH = 500


def write(folder: Path, scalars: int, media: bool) -> Path:
    """One event file of about `scalars` scalars."""
    import numpy
    from torch.utils.tensorboard import SummaryWriter

    rng = random.Random(0)
    noise = numpy.random.default_rng(0).normal(size=22050)
    writer = SummaryWriter(str(folder))
    for step in range(scalars // len(STEP_TAGS)):
        if step and step % STEPS_PER_EPOCH == 0:
            writer.add_scalar("TrainEpochStats/epoch_time", 60.0, step)
            for side in ("TrainEpochStats", "EvalStats"):
                for key in LOSSES:
                    writer.add_scalar(f"{side}/avg_{key}", 5 / math.log(step) + rng.random() / 10, step)
        for key in STEP_TAGS:
            writer.add_scalar(f"TrainIterStats/{key}", rng.random(), step)
        if media and step % 50 == 0:
            writer.add_histogram("layer1/param", noise, step)
        if media and step % STEPS_PER_EPOCH == 0:
            writer.add_audio("EvalAudios/sample", noise.reshape(1, -1) / 10, step, sample_rate=22050)
    writer.close()
    return next(folder.glob("events.out.tfevents.*"))


def theirs(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of the eval losses as EventAccumulator reads them, all scalars in memory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0, "histograms": 1, "audio": 1})
    accumulator.Reload()
    return {key: [(e.step, e.value) for e in accumulator.Scalars(f"EvalStats/avg_{key}")] for key in LOSSES}


def ours(file: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from our parser."""
    from xtts_gatekeeper.record.tensorboard import TensorBoardParser

    parser = TensorBoardParser()
    with file.open("rb") as events:
        while chunk := events.read(1 << 20):
            parser.feed(chunk)
    parser.close()
    (record,) = parser.records()
    return {key: [(e.step, e.metrics[f"eval.{key}"]) for e in record.evaluations] for key in LOSSES}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--scalars", type=int, default=300_000)
    options = arguments.parse_args()
    readers = {"EventAccumulator": theirs, "TensorBoardParser": ours}
    with tempfile.TemporaryDirectory() as folder:
        for name, media in (("scalars", False), ("scalars, histograms, audio", True)):
            file = write(Path(folder) / str(media), options.scalars, media)
            seconds: dict[str, list[float]] = {reader: [] for reader in readers}
            values = {}
            for _ in range(options.repeats):
                for reader, read in readers.items():
                    begun = time.perf_counter()
                    values[reader] = read(file)
                    seconds[reader].append(time.perf_counter() - begun)
            print(f"{name}: about {options.scalars} scalars, {file.stat().st_size / 1e6:.1f} MB")
            for reader, times in seconds.items():
                print(f"  {reader:18} {statistics.median(times):7.3f} s ({min(times):.3f} to {max(times):.3f})")
            ratio = statistics.median(seconds["EventAccumulator"]) / statistics.median(seconds["TensorBoardParser"])
            agree = values["EventAccumulator"] == values["TensorBoardParser"]
            points = sum(map(len, values["TensorBoardParser"].values()))
            print(f"  {ratio:.1f} times as fast; the {points} eval values {'agree' if agree else 'DIFFER'}")


if __name__ == "__main__":
    main()
