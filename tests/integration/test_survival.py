"""A small share of `benchmarks/survival.py`, always the same one: real trainings, killed, starved and damaged."""

SHARE = {"random": 12, "boundaries": 40, "faults": 30, "disk": 4, "limit": 4, "flips": 40, "xtts": 0, "continue": 1}


def test_nothing_acknowledged_is_ever_lost(python, tmp_path):
    counts = [f"--{part}={count}" for part, count in SHARE.items()]
    done = python("benchmarks/survival.py", *counts, "--seed=1", "--work", tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
