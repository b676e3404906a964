"""A long run with everything in it that a report can show, out of numbers that are drawn by a fixed seed."""

import json
import math
import random
from dataclasses import asdict, replace

from records import STEPS, gradients, memory, saved, start, trained, write_run
from sample_sets import SPREAD, measured, sample_set, spoken

from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.record import RunRecord, SampleScore
from xtts_gatekeeper.record.events import (
    Action,
    BadBatch,
    Checkpoint,
    Crash,
    DataCheck,
    End,
    Evaluation,
    Incident,
    LearningRateCheck,
    PhaseStart,
    Pruned,
    VerdictEvent,
)
from xtts_gatekeeper.samples.calibration import Calibration
from xtts_gatekeeper.samples.score import fault_counts, scores
from xtts_gatekeeper.samples.sets import write_measured, write_spoken
from xtts_gatekeeper.samples.speak import write_wav

TEXTS = (
    "The harbour lies still before the first boats go out.",
    "How many letters did the postman bring on Thursday?",
    "She paid twelve euros and forty cents for the tickets.",
    "Nobody expected the bridge to open again so soon!",
)


def clock(number):
    """A time of day, a minute an epoch."""
    return f"2025-03-0{1 + number // 1440}T{number // 60 % 24:02}:{number % 60:02}:00+0100"


def loss(epoch, floor=2.2, noise=0.015, seed=0):
    """A loss that falls as losses do."""
    return floor + 1.9 * math.exp(-epoch / 14) + random.Random(f"{seed} {epoch}").gauss(0, noise)


def epoch_events(epoch, *, overfit=0.004):
    """An epoch of training and its evaluation."""
    step, at = (epoch + 1) * STEPS * 12, clock(epoch)
    wave = random.Random(epoch)
    train, eval_, text = (
        loss(epoch, 2.05, 0.01, 1),
        loss(epoch) + overfit * max(0, epoch - 45),
        loss(epoch, 0.7, 0.01, 2),
    )
    norms = {**gradients(norm=round(0.6 + 0.4 * wave.random(), 4)), "norm_max": round(2 + 9 * wave.random() ** 3, 3)}
    speed = {
        "steps_per_second": round(1.9 + 0.2 * wave.random(), 3),
        "clips_per_second": 5.7,
        "audio_seconds_per_second": round(38 + 4 * wave.random(), 2),
        "data_wait_share": round(0.03 + 0.02 * wave.random(), 4),
    }
    lr = 5e-6 if epoch < 60 else 1e-6
    yield replace(
        trained(epoch, step, metrics={"train.mel_ce": train, "train.text_ce": text, "train.loss": train + 0.01 * text}),
        lr_end=[lr],
        gradients=norms,
        memory=memory(int(9.1e9 + 4e7 * (epoch % 7)), total=24 << 30),
        throughput=speed,
        time=at,
    )
    metrics = {"eval.mel_ce": eval_, "eval.text_ce": text + 0.05, "eval.loss": eval_ + 0.01 * (text + 0.05)}
    gap = {"mel_ce": eval_ - train, "text_ce": 0.05}
    yield Evaluation(
        step=step, epoch=epoch, time=at, metrics=metrics, batches=20, samples=60, eval_set="5f1e9c", gap=gap
    )


def long_events(epochs=100):
    """The events of a run of two phases with checkpoints, samples, a crash and more."""
    whole = [
        start(
            device="cuda", scheduler="none", epochs_planned=epochs, precision="float32", lr=[5e-6], eval_set="5f1e9c"
        ),
        DataCheck(step=0, epoch=0, clips=1200, seconds=7260.0, faults={"too_long": 3, "noisy": 11}, unusable=["c7"]),
        PhaseStart(step=0, epoch=0, name="phase 1", index=0, lr=5e-6),
        LearningRateCheck(step=1, epoch=0, phase="phase 1", planned=5e-6, in_effect=[5e-6], ok=True),
    ]
    policy = load_policy("checklist")
    kept: list[Checkpoint] = []
    best = math.inf
    for epoch in range(epochs):
        trained_now, evaluation = epoch_events(epoch)
        step = evaluation.step
        if epoch == 60:
            whole += [
                PhaseStart(step=step - 100, epoch=epoch, name="phase 2", index=1, lr=1e-6, why="no gain for 5 epochs"),
                LearningRateCheck(
                    step=step - 99, epoch=epoch, phase="phase 2", planned=1e-6, in_effect=[1e-6], ok=True
                ),
            ]
        whole += [trained_now, evaluation]
        verdict = evaluate(RunRecord(tuple(whole)), policy)
        whole.append(
            VerdictEvent(
                step=step,
                epoch=epoch,
                verdict=verdict.verdict,
                reasons=[asdict(reason) for reason in verdict.reasons],
                gates=verdict.gates,
                policy_hash=verdict.policy_hash,
            )
        )
        value = evaluation.metrics["eval.mel_ce"]
        if value < best:
            best = value
            whole.append(
                saved(
                    step, "best", value=value, metric="eval.mel_ce", bytes=1_870_000_000, epoch=epoch, resumable=False
                )
            )
            whole += _without(kept, step, "best")
            kept.append(whole[-1] if isinstance(whole[-1], Checkpoint) else whole[-2])
        if epoch % 5 == 4:
            file = saved(step, bytes=5_600_000_000, epoch=epoch, resumable=True)
            whole.append(file)
            whole += _without(kept, step, "latest")
            kept.append(file)
        if epoch == 33:
            crash = Crash(
                step=step + 40,
                epoch=epoch + 1,
                kind="out_of_memory",
                message="CUDA out of memory: 1.2 GB asked for, 0.4 GB free",
                decision="restart",
                why="The batch is halved.",
            )
            whole += [
                crash,
                start(step, epoch + 1, resumed_from="checkpoint_3960.pth", device="cuda", epochs_planned=epochs),
            ]
        if epoch == 20:
            bad = {"files": ["wavs/c12.wav", "wavs/c80.wav"], "suspects": ["wavs/c80.wav"]}
            whole.append(BadBatch(step=step - 7, epoch=epoch, kind="loss_spike", value=9.5, limit=6.1, **bad))
            message = "the disk has 12 GB left, and two checkpoints need 13"
            whole.append(Incident(step=step - 3, epoch=epoch, code="disk_low", message=message))
        if epoch == 60:
            message = "Mel CE rests: phase 2 begins at LR 1e-6"
            whole.append(Action(step=step - 100, epoch=epoch, name="next_phase", message=message))
    whole.append(End(step=epochs * STEPS * 12, epoch=epochs - 1, how="finished"))
    return whole


def _without(kept, step, kind):
    """What retention removes when another file of a kind has come."""
    old = [file for file in kept if file.kind == kind]
    for file in old:
        kept.remove(file)
    return [Pruned(step=step, epoch=0, removed=[f.path for f in old], kept=[], bytes_freed=sum(f.bytes for f in old))][
        : len(old)
    ]


def write_samples(run, steps, *, texts=TEXTS, rate=24000, seconds=1.0, faulty=()):
    """Sets of samples at some steps, which get better; sound where numpy is there. Returns their score events."""
    import numpy as np

    events = []
    for number, step in enumerate(steps):
        folder = run / "gatekeeper" / "samples" / f"{step:08}"
        folder.mkdir(parents=True)
        samples = [spoken(f"p{n + 1}", text=text, seconds=seconds) for n, text in enumerate(texts)]
        better = number / max(1, len(steps) - 1)
        found = []
        for at, sample in enumerate(samples):
            kinds = ["repeated"] if number == 0 or (number, at) in faulty else []
            values = {"wer": 0.3 * (1 - better), "cer": 0.12 * (1 - better), "naturalness": 3.1 + 1.1 * better}
            found.append(replace(measured(sample, kinds, **values), heard=sample.text.lower().rstrip(".!?")))
        made = replace(
            sample_set(samples, found, step=step),
            folder=folder,
            epoch=step // (STEPS * 12) - 1,
            rate=rate,
            digest=str(step),
        )
        write_spoken(made)
        time = np.arange(int(seconds * rate)) / rate
        for at, sample in enumerate(samples):
            tone = 0.2 * np.sin(2 * np.pi * (180 + 47 * at + 5 * number) * time) * np.hanning(len(time))
            write_wav(folder / sample.file, tone, rate)
        marks = scores(made, SPREAD)
        write_measured(folder, found, "measures", marks)
        events.append(
            SampleScore(
                step=step,
                epoch=made.epoch,
                metrics=marks,
                prompts="prompts",
                folder=folder.relative_to(run).as_posix(),
                faults=fault_counts(made),
            )
        )
    return events


def write_long_run(folder, epochs=100, sets=9):
    """Write such a run, samples and all."""
    events = long_events(epochs)
    steps = sorted({(1 + round(n * (epochs - 1) / max(1, sets - 1))) * STEPS * 12 for n in range(sets)})
    scored = {event.step: event for event in write_samples(folder, steps)} if sets else {}
    whole = []
    for event in events:
        whole.append(event)
        if isinstance(event, VerdictEvent) and event.step in scored:
            whole.append(scored[event.step])
    write_run(folder, whole)
    if sets:
        scale = Calibration(spread=SPREAD, clips=("c1.wav",))
        scale.write(folder / "gatekeeper" / "samples" / "calibration.json")
    (folder / "gatekeeper" / "config.json").write_text(json.dumps({}), encoding="utf-8")
    return folder


def write_data(run, clips=4):
    """Data in LJSpeech layout, and a config that makes it the run's."""
    import waves

    folder = run / "data"
    texts = waves.texts(clips)
    for number, text in enumerate(texts):
        wave = waves.speak(text, number)
        waves.write(folder / "wavs" / f"c{number}.wav", wave if number else wave[:4000])  # the first is too short
    lines = "".join(f"c{number}|{text}|{text}\n" for number, text in enumerate(texts))
    (folder / "metadata.csv").write_text(lines, encoding="utf-8")
    dataset = {"formatter": "ljspeech", "path": str(folder), "meta_file_train": "metadata.csv", "language": "en"}
    (run / "config.json").write_text(json.dumps({"datasets": [dataset], "audio": {}}), encoding="utf-8")


def write_results(run, listener="Anna"):
    """What `listen` leaves when somebody has judged two sets; the real clips are without a difference."""
    rows = ("intelligibility", "prosody", "pronunciation", "stopping", "artifacts")

    def heard(source, name, score):
        metrics = {f"sample.{row}": {"mean": score / 5, "low": None, "high": None} for row in rows}
        metrics["sample.score"] = {"mean": score, "low": score - 1.5, "high": score + 1}
        return {
            "source": source,
            "name": name,
            "step": 1,
            "prompts": 4,
            "metrics": metrics,
            "faults": {},
            "preferred": 3,
        }

    vote = {"first": "step 240", "second": "step 120", "votes": [3, 1, 0], "prompts": [3, 1], "p": 0.625}
    told = {
        "session": "a1b2",
        "created": clock(0),
        "prompts": "prompts",
        "listeners": [{"name": listener, "consistency": {"sentence": "marks the same sample alike"}}],
        "systems": [heard("120", "step 120", 18.5), heard("240", "step 240", 20.0)],
        "preferences": [{**vote, "share": None, "difference": {"mean": 1.5, "low": 0.5, "high": 2.5}}],
        "real": heard("real", "real clips", 24.0),
    }
    folder = run / "gatekeeper" / "listening" / "a1b2"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(told), encoding="utf-8")
