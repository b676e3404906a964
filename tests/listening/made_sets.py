"""Made-up runs with sets of samples that sound apart, to be listened to."""

import json

import numpy as np
import soundfile

from xtts_gatekeeper.samples.sets import Sample, SampleSet, write_spoken

RATE = 24000
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "A second sentence that is spoken twice.",
    "Numbers like 42 are hard to say.",
    "Is this a question, or is it not?",
    "The last one is short.",
)


def tone(hertz, seconds=0.8, level=0.2, rate=RATE):
    """A tone with a soft beginning and end, mono."""
    time = np.arange(int(seconds * rate)) / rate
    ramp = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.02)
    return (level * ramp * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_tone(path, hertz, seconds=0.8, level=0.2, rate=RATE):
    """A tone as a WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(hertz, seconds, level, rate), rate)
    return path


def make_set(folder, step, *, texts=TEXTS, prompts="fingerprint", level=0.2, failed=(), skipped=(), weights="live"):
    """A set of samples, a tone a prompt: its pitch tells the step and the prompt."""
    samples = []
    for number, text in enumerate(texts, 1):
        name = f"p{number}"
        values = {"prompt": name, "text": text, "language": "en"}
        if name in failed or name in skipped:
            samples.append(Sample(file="", error="it made no numbers", skipped=name in skipped, **values))
            continue
        write_tone(folder / f"{name}.wav", 200 + step + 10 * number, level=level)
        samples.append(Sample(file=f"{name}.wav", seconds=0.8, **values))
    folder.mkdir(parents=True, exist_ok=True)
    made = SampleSet(
        folder=folder, step=step, epoch=step // 100, weights=weights, prompts=prompts, samples=tuple(samples)
    )
    write_spoken(made)
    return made


def make_run(folder, steps=(100, 200), *, real=(), **values):
    """A run's folder with a set a step; `real` are the texts of clips that were held out."""
    for step in steps:
        make_set(folder / "gatekeeper" / "samples" / str(step), step, **values)
    clips = []
    for number, text in enumerate(real, 1):
        path = write_tone(folder.parent / "clips" / f"real-{number}.wav", 900 + number, seconds=2.0)
        clips.append({"audio_file": str(path), "text": text, "language": "en", "speaker_name": "anna"})
    (folder / "gatekeeper" / "eval_clips.json").write_text(json.dumps(clips))
    return folder
