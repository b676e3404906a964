"""What the listening page takes: requests a second with 50 open pages, and what it costs a training beside it.

    python benchmarks/listening.py [--rate 100] [--pages 50] [--rounds 4] [--seconds 20]

A toy XTTS trains in a process of its own. Beside it `xtts-gatekeeper listen` serves made-up samples, and so many pages,
each a connection that stays open, ask for sessions, sounds (in pieces, as a browser does) and save answers, in turns
with times of quiet. Steps are timed in both, in the same training. The pages are simulated by this process, whose own
time is on the same machine. Measures, asserts nothing.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ROWS = ("intelligibility", "prosody", "pronunciation", "stopping", "artifacts")
#: What a page asks for, how often among a hundred requests: mostly sounds, and every change of a mark is saved.
MIX = {"sound": 60, "answer": 35, "session": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, of all pages together")
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round of quiet, and of one of load")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(work: Path, options) -> None:
    import psutil

    from xtts_gatekeeper.toy.model import build_toy_base
    from xtts_gatekeeper.toy.speech import make_speech_set

    build_toy_base(work / "toy")
    make_speech_set(work / "speech")
    make_sets(work / "samples", sorted((work / "speech" / "wavs").glob("*.wav"))[:8])
    server = subprocess.Popen(
        [sys.executable, "-m", "xtts_gatekeeper", "listen", str(work / "samples"), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    trainer = subprocess.Popen(
        [sys.executable, __file__, "--train", str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    try:
        link = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+token=\S+", line)))
        os.set_blocking(trainer.stdout.fileno(), False)
        steps = Steps(trainer)
        asyncio.run(run(link, steps, psutil.Process(server.pid), options))
    finally:
        for process in (trainer, server):
            process.terminate()
            process.wait()


class Steps:
    """The steps that a training tells, as pairs of when it ended and seconds."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.told: list[tuple[float, float]] = []
        self._rest = b""

    def look(self) -> None:
        """Take what has been told since."""
        while chunk := self.process.stdout.read(1 << 16):  # None where there is nothing yet
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        self.told += [tuple(map(float, line.split()[1:])) for line in lines if line.startswith(b"step ")]

    def between(self, begin: float, end: float) -> list[float]:
        """Seconds of the steps that lie between two times."""
        return [seconds for ended, seconds in self.told if begin <= ended - seconds and ended <= end]


async def run(link: str, steps: Steps, server, options) -> None:
    while len(steps.told) < 5:
        await asyncio.sleep(0.2)
        steps.look()
    pages = [Page(link, f"listener {number}") for number in range(options.pages)]
    for page in pages:
        await page.open()
    times: dict[str, list[float]] = defaultdict(list)
    took: list[tuple[str, float]] = []
    failed: Counter[str] = Counter()
    cpu = 0.0
    for _ in range(options.rounds):
        for kind in ("quiet", "load"):
            begin, before = time.time(), sum(server.cpu_times()[:2])
            if kind == "load":
                await load(pages, options, took, failed)
                cpu += sum(server.cpu_times()[:2]) - before
            else:
                await asyncio.sleep(options.seconds)
            steps.look()
            times[kind] += steps.between(begin, time.time())
    print(
        f"{len(took)} requests of {options.pages} pages, {options.rate:g} a second asked for: "
        f"{len(took) / (options.rounds * options.seconds):.1f} answered, {sum(failed.values())} failed {dict(failed)}"
    )
    print(f"{'':10}{'requests':>9}{'median ms':>11}{'95 %':>8}{'99 %':>8}{'most':>8}")
    for what in MIX:
        found = sorted(1000 * seconds for kind, seconds in took if kind == what)
        at = [found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.95, 0.99, 1.0)]
        print(f"{what:10}{len(found):>9}{at[0]:>11.1f}{at[1]:>8.1f}{at[2]:>8.1f}{at[3]:>8.1f}")
    print(
        f"server: {1000 * cpu / max(1, len(took)):.2f} ms of a core a request, {server.memory_info().rss / 1e6:.0f} MB"
    )
    middle = {kind: statistics.median(found) for kind, found in times.items()}
    for kind, found in times.items():
        print(f"step, {kind:6}{len(found):>6}{middle[kind]:>9.4f} s{middle[kind] / middle['quiet']:>8.3f}x")


async def load(pages, options, took, failed) -> None:
    """All pages together ask `rate` times a second, each when its time has come, whatever became of the others."""
    begin = time.perf_counter()
    gap = options.pages / options.rate

    async def one(number: int, page: "Page") -> None:
        when = begin + gap * number / len(pages)
        while when < begin + options.seconds:
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            what = random.choices(list(MIX), list(MIX.values()))[0]
            start = time.perf_counter()
            try:
                status = await page.ask(what)
                if status in (200, 206):
                    took.append((what, time.perf_counter() - start))
                else:
                    failed[f"{what} {status}"] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                failed[type(error).__name__] += 1
                await page.open()
            when += gap

    await asyncio.gather(*(one(number, page) for number, page in enumerate(pages)))


class Page:
    """One open page: a connection, a cookie, and the trials of its listener."""

    def __init__(self, link: str, listener: str) -> None:
        self.url = urlsplit(link)
        self.listener = listener
        self.cookie = self.csrf = ""
        self.reader = self.writer = None

    async def open(self) -> None:
        """Connect, and fetch what a page begins with."""
        self.reader, self.writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        _, head, _ = await self.request("GET", f"{self.url.path}?{self.url.query}")
        self.cookie = re.search(r"set-cookie: ([^;]+)", head, re.IGNORECASE)[1]
        _, _, page = await self.request("GET", "/")
        self.csrf = re.search(r'name="csrf" content="([^"]+)"', page.decode())[1]
        _, _, body = await self.request("GET", f"/api/session?listener={quote(self.listener)}")
        self.trials = json.loads(body)["trials"]

    async def ask(self, what: str) -> int:
        """Do one of the things in `MIX`; returns the status."""
        trial = random.choice(self.trials)
        if what == "session":
            status, _, _ = await self.request("GET", f"/api/session?listener={quote(self.listener)}")
        elif what == "sound":
            token = random.choice(trial["stimuli"])["token"]
            status, _, _ = await self.request("GET", f"/audio/{token}", {"Range": "bytes=0-"})
        else:
            marks = {one["token"]: {row: random.randint(1, 5) for row in ROWS} for one in trial["stimuli"]}
            answer = {"marks": marks, "faults": {}, "notes": {}, "preferred": "none", "seconds": 3.0}
            document = {"listener": self.listener, "trial": trial["id"], "answer": answer}
            more = {"X-CSRF-Token": self.csrf, "Content-Type": "application/json"}
            status, _, _ = await self.request("POST", "/api/answer", more, json.dumps(document).encode())
        return status

    async def request(self, method: str, path: str, more=None, body: bytes = b"") -> tuple[int, str, bytes]:
        """Status, head and content of the answer to a request."""
        lines = {"Host": self.url.netloc, "Cookie": self.cookie, **(more or {})}
        if body:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v) + "\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        told = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", told, re.IGNORECASE)
        content = await self.reader.readexactly(int(length[1])) if length else b""
        return int(told.split()[1]), told, content


def make_sets(folder: Path, clips: list[Path]) -> None:
    """Three sets of samples out of clips of speech."""
    import shutil

    from xtts_gatekeeper.samples.sets import Sample, SampleSet, write_spoken

    for step in (100, 200, 300):
        (folder / str(step)).mkdir(parents=True)
        spoken = []
        for clip in clips:
            shutil.copy(clip, folder / str(step) / clip.name)
            spoken.append(Sample(file=clip.name, prompt=clip.stem, text=f"What {clip.stem} says.", language="en"))
        write_spoken(
            SampleSet(
                folder=folder / str(step),
                step=step,
                epoch=step // 100,
                weights="live",
                prompts="p",
                samples=tuple(spoken),
            )
        )


def train(work: Path) -> None:
    """Train the toy for as long as one lets it, and tell every step."""
    from xtts_gatekeeper import gatekeep

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig, GatekeptGPTTrainerConfig
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.dataset.split import stable_split

    clips, dev = stable_split(load_ljspeech(work / "speech"))
    config = GatekeptGPTTrainerConfig(
        output_path=str(work / "runs"),
        run_name="beside",
        model_args=GPTArgs(**read_base(work / "toy").model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=10_000,
        batch_size=3,
        eval_batch_size=3,
        save_checkpoints=False,
        save_best_after=10**9,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=1e-4,
        gatekeeper=GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False)),
    )
    began = {}

    def ended(_trainer) -> None:
        print("step", time.time(), time.perf_counter() - began["step"], flush=True)

    hooks = {
        "on_train_step_start": lambda t: began.update(step=time.perf_counter()),
        "on_train_step_end": ended,
    }
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=GPTTrainer(config),
        train_samples=clips,
        eval_samples=dev,
        parse_command_line_args=False,
        callbacks=gatekeep(config, hooks),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
