"""How long a report takes and how large it is, beside what opening the same run otherwise takes.

    python benchmarks/report.py [--times 5]

Made-up runs with everything in them that a report shows, each verb as a process of its own, median of some times, from
the start of the process to its end. Beside the report stand `status`, which reads and judges the same, and the start
of Python with the stock stack, with which a script of one's own begins. Measures, asserts nothing.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "report"), str(ROOT / "tests" / "samples")]

#: Of a run of 100 epochs the page may take so long, and without sound be so large.
SECONDS, MEGABYTES = 3.0, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        from made_runs import write_long_run

        runs = {epochs: write_long_run(work / f"epochs {epochs}", epochs) for epochs in (10, 100, 1000)}
        (work / "table.csv").write_text(
            "step,eval_mel_ce,train_mel_ce\n"
            + "".join(f"{n},{2 + 3 * math.exp(-n / 900):.5f},{2 + 3 * math.exp(-n / 800):.5f}\n" for n in range(5000))
        )
        page = work / "page.html"
        cases = {"python -c 'import TTS, trainer'": (["-c", "import TTS, trainer"], None)}
        for epochs, run in runs.items():
            cases[f"status, {epochs} epochs"] = (verb("status", run), None)
            for audio in ("none", "few", "all"):
                cases[f"report, {epochs} epochs, audio {audio}"] = (
                    verb("report", run, "--audio", audio, "-o", page),
                    page,
                )
        cases["report, table of 5000 evaluations"] = (verb("report", work / "table.csv", "-o", page), page)
        print(f"{'':44}{'seconds':>9}{'fastest':>9}{'MB':>7}{'of 3 s':>9}{'of 3 MB':>9}")
        for name, (command, made) in cases.items():
            took = [seconds(command) for _ in range(options.times)]
            middle = statistics.median(took)
            size = made.stat().st_size / 1e6 if made else None
            told = f"{size:>7.2f}{middle / SECONDS:>8.2f}x{size / MEGABYTES:>8.2f}x" if size else ""
            print(f"{name:44}{middle:>9.2f}{min(took):>9.2f}{told}")


def verb(*words: object) -> list[str]:
    return ["-m", "xtts_gatekeeper", *map(str, words)]


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
