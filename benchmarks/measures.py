"""How many planted faults the measures find in real speech, what they call them, and what they cost.

    python benchmarks/measures.py --models DIR [--languages en,es,fr,it,ru] [--clips 12] [--plants 20]

Real clips are Debian's Asterisk prompts (asterisk-core-sounds-XX and -XX-g722, ffmpeg). Of each language some
calibrate, as a run's held-out clips do; of the others one half ("set") was used to choose the limits, and the other
("test") is what this counts on. Every clip of it gets some of `damage.PLANTS`. The same audio is judged once more
without clips of the speaker ("general"), which is what a tool with fixed limits would do. The stock stack measures
nothing.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import damage
import numpy as np
import soundfile

from xtts_gatekeeper.samples.audio import sound_of
from xtts_gatekeeper.samples.calibration import Calibration, Reference, Spread
from xtts_gatekeeper.samples.faults import find_faults
from xtts_gatekeeper.samples.measures import default_measures
from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.measuring import Ears

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "datasets"))
import asterisk

#: Clips that calibrate, as many as a run of an hour holds out.
CALIBRATING = 24


@dataclass
class Row:
    """One clip, damaged or not: what was planted, what was found with the speaker's clips and without."""

    plant: str
    language: str
    clip: str
    kinds: list[str]
    general: list[str]
    values: dict[str, float]
    heard: str
    seconds: float


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore")
    models = Models(options.models)
    rows: list[Row] = []
    real: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for language in options.languages.split(","):
            data = Path(folder) / language
            found, measured = one_language(data, language, options, models)
            rows += found
            real += measured
            done = [row for row in rows if row.plant]
            print(f"{language}: {len(done)} damaged clips so far", file=sys.stderr, flush=True)
    if options.keep:
        options.keep.write_text("\n".join(json.dumps(vars(row), ensure_ascii=False) for row in rows))
    if options.general:
        print_general(real)
    print_found(rows)
    print_cost(models)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the models; default: XTTS_GATEKEEPER_MODELS")
    parser.add_argument("--languages", default="en,es,fr,it,ru")
    parser.add_argument("--clips", type=int, default=12, help="clips of each language that are damaged")
    parser.add_argument("--skip", type=int, default=0, help="clips of the half that are passed over")
    parser.add_argument("--half", choices=("set", "test"), default="test")
    parser.add_argument("--plants", type=int, default=len(damage.PLANTS), help="plants a clip, taken in turn")
    parser.add_argument("--keep", type=Path, help="write every value of every clip, a JSON object a line")
    parser.add_argument("--general", action="store_true", help="print calibration.GENERAL out of the real clips")
    return parser.parse_args()


def one_language(data: Path, language: str, options: argparse.Namespace, models: Models):
    """Rows of a language, and the values of its calibrating clips."""
    sys.argv[1:] = ["--language", language, "--output", str(data), "--min-seconds", "1.5", "--max-seconds", "8"]
    asterisk.convert(asterisk.parse_arguments())
    lines = [line.split("|")[:2] for line in (data / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    lines = [(name, text) for name, text in lines if len(text.split()) >= 3]
    random.Random(1).shuffle(lines)
    calibrating, others = lines[:CALIBRATING], lines[CALIBRATING:]
    half = others[::2] if options.half == "test" else others[1::2]
    ears = Ears(models)
    references = [
        Reference(audio_file=str(data / "wavs" / f"{name}.wav"), text=text, language=language)
        for name, text in calibrating
    ]
    ears.calibrate(references)
    chosen = half[options.skip : options.skip + options.clips]
    rows = [row for at in range(len(chosen)) for row in one_clip(data, language, chosen, at, ears, options)]
    real = []
    if options.general:
        blind = Ears(models, Calibration(speaker=ears.calibration.speaker))
        real = [dict(blind.listen(Path(ref.audio_file), ref.text, language).values) for ref in (*references,)]
    return rows, real


def one_clip(data: Path, language: str, clips, at: int, ears: Ears, options: argparse.Namespace):
    """A clip as it is and with every plant."""
    name, text = clips[at]
    audio, other = (read(data, clips[(at + step) % len(clips)][0]) for step in (0, 1))
    plain = Speech(sound_of(audio[None], damage.RATE), ears.models, text, language)
    words = [(w.begin, w.end) for w in plain.heard.words if any(map(str.isalnum, w.text))]
    yield judged("", audio, name, text, language, ears)
    for number, plant in enumerate(damage.PLANTS):
        if (number - at * options.plants) % len(damage.PLANTS) >= options.plants:
            continue
        rng = np.random.default_rng([at, number])
        damaged = np.clip(plant(audio, words, other, rng), -1, 1).astype(np.float32)
        yield judged(plant.__name__, damaged, name, text, language, ears)


def read(data: Path, name: str) -> damage.Audio:
    return soundfile.read(data / "wavs" / f"{name}.wav", dtype="float32")[0]


def judged(plant: str, audio: damage.Audio, name: str, text: str, language: str, ears: Ears) -> Row:
    found = ears.listen_to(sound_of(audio[None], damage.RATE), name, text, language)
    blind = Calibration(speaker=ears.calibration.speaker)
    values = dict(found.values)
    ratio = blind.duration_ratio(text, language, values)
    general = find_faults({**values, **({"duration_ratio": ratio} if ratio is not None else {})}, blind)
    kinds = [[fault.kind for fault in faults] for faults in (found.faults, general)]
    return Row(plant, language, name, *kinds, values, found.heard or "", len(audio) / damage.RATE)


def print_found(rows: list[Row]) -> None:
    """By plant: found at all, the right name among those given, the right name first; then the false alarms."""
    names = {plant.__name__: right for plant, right in damage.PLANTS.items()}
    print(f"{'planted':18}{'clips':>6}{'found':>7}{'named':>7}{'first':>7}   with fixed limits: found  named")
    totals = np.zeros(6)
    for plant, right in names.items():
        of_it = [row for row in rows if row.plant == plant]
        if not of_it:
            continue
        counts = np.array(
            [
                (
                    1,
                    bool(row.kinds),
                    any(kind in right for kind in row.kinds),
                    bool(row.kinds) and row.kinds[0] in right,
                    bool(row.general),
                    any(kind in right for kind in row.general),
                )
                for row in of_it
            ]
        ).sum(axis=0)
        totals += counts
        print_shares(plant, counts)
    if totals[0]:
        print_shares("all", totals)
    clean = [row for row in rows if not row.plant]
    for label, which in (("false alarms", "kinds"), ("with fixed limits", "general")):
        alarmed = [row for row in clean if getattr(row, which)]
        kinds = collections.Counter(kind for row in alarmed for kind in getattr(row, which))
        by_language = collections.Counter(row.language for row in alarmed)
        share = len(alarmed) / max(1, len(clean))
        print(
            f"{label}: {len(alarmed)} of {len(clean)} untouched clips ({share:.1%}) {dict(kinds)} {dict(by_language)}"
        )


def print_shares(label: str, counts: np.ndarray) -> None:
    n, found, named, first, general, general_named = counts
    shares = f"{found / n:>7.3f}{named / n:>7.3f}{first / n:>7.3f}"
    print(f"{label:18}{int(n):>6}{shares}{general / n:>28.3f}{general_named / n:>7.3f}")


def print_cost(models: Models) -> None:
    """Seconds of one core a second of audio, by measure, over clips of 2 to 6 s that were not measured before."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "en"
        sys.argv[1:] = ["--language", "en", "--output", str(data), "--min-seconds", "2", "--max-seconds", "6"]
        asterisk.convert(asterisk.parse_arguments())
        lines = [line.split("|")[:2] for line in (data / "metadata.csv").read_text(encoding="utf-8").splitlines()][:30]
        measures = default_measures()
        measures[-1].speaker = np.ones(192, dtype=np.float32)
        spent: dict[str, float] = collections.defaultdict(float)
        total = 0.0
        for warm, (name, text) in enumerate(lines):
            audio = read(data, name)
            began = time.process_time()
            speech = Speech(sound_of(audio[None], damage.RATE), models, text, "en")
            parts = {"reading": time.process_time() - began}
            for one in measures:
                began = time.process_time()
                try:
                    one(speech)
                except Unmeasured as error:
                    print(f"not measured: {one.name} ({error})")
                parts[one.name] = time.process_time() - began
            if warm >= 3:  # the first load models
                total += len(audio) / damage.RATE
                for part, seconds in parts.items():
                    spent[part] += seconds
    print("core seconds a second of audio: " + ", ".join(f"{k} {v / total:.3f}" for k, v in spent.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"in all {sum(spent.values()) / total:.3f} (at most 0.6 wanted); peak memory {peak:.2f} GB")


def print_general(real: list[dict[str, float]]) -> None:
    print("GENERAL: Mapping[str, Spread] = {")
    for name in sorted(set().union(*real)):
        values = np.array([row[name] for row in real if name in row])
        median = float(np.median(values))
        spread = Spread(
            median=round(median, 4), mad=round(float(np.median(np.abs(values - median))), 4), count=len(values)
        )
        print(f"    {name!r}: {spread},")
    print("}")


if __name__ == "__main__":
    main()
