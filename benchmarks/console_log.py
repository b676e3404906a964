"""How fast a console log is read: a million logged steps, with our reader and, on a tenth, with a plain one.

`gate` is the whole verb, with 100 evaluations and with 1,000; `ours` the reader alone. Prints lines, MB, seconds, MB/s
and peak memory, each reader in a process of its own. Asserts nothing.

    python benchmarks/console_log.py [steps]
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 1_000_000
PER_EPOCH = 10_000
_CHUNK = 1 << 20


def write_log(path: Path, steps: int, per_epoch: int = PER_EPOCH) -> None:
    """The log of a run that prints every step."""
    with path.open("w", encoding="ascii") as log:
        for step in range(steps):
            within = step % per_epoch
            epoch = step // per_epoch
            if within == 0:
                log.write(f"\n\x1b[4m\x1b[1m > EPOCH: {epoch}/{steps // per_epoch}\x1b[0m\n --> /runs/GPT_XTTS_FT\n")
                log.write("\n\x1b[1m > TRAINING (2024-05-01 08:00:00) \x1b[0m\n")
            mel = 4 - 2 * step / steps + (step * 7919 % 1000) / 3000
            text = 0.02 + (step * 104729 % 1000) / 1e5
            log.write(
                f"\n\x1b[1m   --> TIME: 2024-05-01 08:{step // 60 % 60:02}:{step % 60:02} -- STEP: {within}/{per_epoch}"
                f" -- GLOBAL_STEP: {step}\x1b[0m\n"
                f"     | > loss_text_ce: {text!r}  ({text * 1.01!r})\n"
                f"     | > loss_mel_ce: {mel!r}  ({mel * 1.01!r})\n"
                f"     | > loss: {mel + text!r}  ({(mel + text) * 1.01!r})\n"
                "     | > grad_norm: 0  (0.0)\n"
                "     | > current_lr: 5e-06 \n"
                f"     | > step_time: 0.{within:04}  (0.36300480122468914)\n"
                f"     | > loader_time: 0.{epoch:04}  (0.021158369220032985)\n\n"
            )
            if within == per_epoch - 1:
                log.write("\n\x1b[1m > EVALUATION \x1b[0m\n\n\n  \x1b[1m--> EVAL PERFORMANCE\x1b[0m\n")
                for key, value in (("avg_loader_time", 0.1), ("avg_loss_mel_ce", mel), ("avg_loss", mel + text)):
                    diff = "+0" if epoch == 0 else f"-{0.1 / (epoch + 1)}"
                    log.write(f"     | > {key}:\x1b[92m {value!r} \x1b[0m({diff})\n")
                log.write(f"\n > BEST MODEL : /runs/GPT_XTTS_FT/best_model_{step + 1}.pth\n")


def read_ours(path: Path) -> tuple[int, int]:
    """Lines, and evaluations found."""
    from xtts_gatekeeper.record.console import ConsoleParser

    parser = ConsoleParser()
    lines = 0
    with path.open("rb") as log:
        while chunk := log.read(_CHUNK):
            lines += chunk.count(b"\n")
            parser.feed(chunk)
    parser.close()
    return lines, sum(len(record.evaluations) for record in parser.records())


def read_plainly(path: Path) -> tuple[int, int]:
    """The obvious reader: every line against every regex, every number parsed."""
    header = re.compile(r"STEP: (\d+)/(\d+) -- GLOBAL_STEP: (\d+)")
    value = re.compile(r"\| > (\w+):\s*(\S+)(?:\s+\(([^)]*)\))?")
    colour = re.compile(r"\x1b\[\d*m")
    lines = evaluations = 0
    block: dict[str, tuple[float, float | None]] = {}
    with path.open(encoding="utf-8") as log:
        for line in log:
            lines += 1
            line = colour.sub("", line)
            if found := header.search(line):
                block = {"step": (float(found[3]), None)}
            elif "EVAL PERFORMANCE" in line:
                block = {}
                evaluations += 1
            elif found := value.search(line):
                block[found[1]] = float(found[2]), float(found[3]) if found[3] else None
    return lines, evaluations


def judge(path: Path) -> tuple[int, int]:
    """The whole of `gate LOG`: find, read, judge. Its lines are not counted."""
    from xtts_gatekeeper.offline import gate_document, open_run

    return 0, int(gate_document(open_run(path))["evaluations"])


READERS = {"gate": judge, "ours": read_ours, "plain": read_plainly}


def measure(reader: str, path: Path) -> None:
    """Read the log with one reader and print what it took; in the child."""
    began = time.perf_counter()
    lines, evaluations = READERS[reader](path)
    seconds = time.perf_counter() - began
    megabytes = path.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{reader:5}  {lines:,} lines  {evaluations} evaluations  {megabytes:.0f} MB  {seconds:.2f} s  "
        f"{megabytes / seconds:.0f} MB/s  peak {peak:.0f} MiB"
    )


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for readers, count, per_epoch in (
            (("gate", "ours"), steps, PER_EPOCH),
            (("gate",), steps, PER_EPOCH // 10),
            (("plain",), steps // 10, PER_EPOCH),
        ):
            path = Path(folder) / "log.txt"
            write_log(path, count, min(per_epoch, count))
            for reader in readers:
                subprocess.run([sys.executable, __file__, reader, str(path)], check=True)
            path.unlink()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
