"""The disk that a run will need, and room for the next save."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from disks import small_disk  # noqa: F401

from xtts_gatekeeper.checkpoints.disk import RESERVE_BYTES, Forecast, forecast, free_bytes
from xtts_gatekeeper.checkpoints.retention import parse_policy
from xtts_gatekeeper.checkpoints.room import Room, make_room, memory_allows
from xtts_gatekeeper.checkpoints.snapshot import state_bytes
from xtts_gatekeeper.trainer_port import StopTraining, TrainerPort

MB = 10**6

# The forecast


def port_of(*optimizers):
    """A `TrainerPort` on what it needs of a Trainer to look at optimizers."""
    return TrainerPort(SimpleNamespace(optimizer=list(optimizers)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {}),
        ("AdamW", {"amsgrad": True}),
        ("Adam", {"amsgrad": True}),
        ("Adam", {"foreach": False}),
        ("NAdam", {}),
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("RMSprop", {}),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
        ("Adagrad", {}),
    ],
)
def test_a_checkpoint_is_foreseen_within_one_percent_before_the_first_update(tmp_path, name, options):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Embedding(400, 64), torch.nn.Linear(64, 512), torch.nn.Linear(512, 400))
    model[0].weight.requires_grad_(False)  # a part that is not trained has no optimizer state
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3, **options)
    port = port_of(optimizer)

    def state():
        return {"model": model.state_dict(), "optimizer": [optimizer.state_dict()], "step": 1}

    foreseen = state_bytes(state()) + port.optimizer_bytes_to_come()
    model(torch.arange(8)).sum().backward()
    optimizer.step()
    torch.save(state(), tmp_path / "checkpoint_1.pth")
    assert foreseen == pytest.approx((tmp_path / "checkpoint_1.pth").stat().st_size, rel=0.01)
    assert port.optimizer_bytes_to_come() == 0
    assert state_bytes(state()) == pytest.approx(foreseen, rel=0.001)


def test_optimizers_are_added_up_and_accelerates_wrapper_is_seen_through():
    torch = pytest.importorskip("torch")
    one, two = torch.nn.Linear(10, 10), torch.nn.Linear(20, 20)
    wrapped = SimpleNamespace(optimizer=torch.optim.AdamW(two.parameters()))
    port = port_of(torch.optim.SGD(one.parameters(), momentum=0.9), wrapped)
    assert port.optimizer_bytes_to_come() == 4 * (110 + 2 * 420)


def foresee(tmp_path, terms=("latest:1", "best:1"), **values):
    given = {"checkpoint": 5450 * MB, "weights": 1810 * MB, "steps": 10_000, "gates": 3, "present": 0, "budget": None}
    policy = parse_policy(terms)
    return forecast(policy=policy, folder=tmp_path, **{**given, **values})


def test_the_default_needs_one_checkpoint_and_one_file_of_weights_and_a_second_checkpoint_while_saving(tmp_path):
    found = foresee(tmp_path)
    assert found.steady == 7260 * MB and found.peak == found.floor_peak == 12710 * MB
    assert found.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


@pytest.mark.parametrize(
    ("terms", "steady"),
    [
        (["latest:3", "best:1"], 3 * 5450 + 1810),
        (["latest:1", "best:4"], 5450 + 4 * 1810),
        (["latest:1", "best:1", "every:4000"], 3 * 5450 + 1810),
        (["latest:1", "best:1", "gate"], 4 * 5450 + 1810),
        (["gate:A"], 5450 + 1810),  # the floor is there whatever the policy says
    ],
)
def test_what_the_policy_keeps_is_added_up(tmp_path, terms, steady):
    found = foresee(tmp_path, terms)
    assert found.steady == steady * MB
    assert found.peak == (steady + 5450) * MB
    assert found.floor_peak == 12710 * MB


def test_a_budget_caps_what_is_kept_but_not_below_what_a_run_cannot_do_without(tmp_path):
    assert foresee(tmp_path, ["latest:9"], budget=20_000 * MB).steady == 20_000 * MB
    assert foresee(tmp_path, ["latest:9"], budget=100 * MB).steady == 7260 * MB


@pytest.mark.parametrize(
    ("present", "free", "floor", "all_"),
    [
        (0, 300 * MB + RESERVE_BYTES, True, True),
        (0, 300 * MB + RESERVE_BYTES - 1, True, False),
        (0, 200 * MB + RESERVE_BYTES, True, False),
        (0, 200 * MB + RESERVE_BYTES - 1, False, False),
        (150 * MB, 150 * MB + RESERVE_BYTES, True, True),  # what the run has already makes room for the new
        (0, 0, False, False),
    ],
)
def test_whether_it_fits_is_decided_to_the_byte(present, free, floor, all_):
    found = Forecast(90 * MB, 20 * MB, 210 * MB, 300 * MB, 200 * MB, present, free)
    assert (found.fits_floor, found.fits) == (floor, all_)


def test_the_numbers_are_said_in_gigabytes(tmp_path):
    said = str(foresee(tmp_path, present=1234 * MB))
    for number in ("5.45 GB", "1.81 GB", "7.26 GB", "12.71 GB", "1.23 GB"):
        assert number in said


def test_free_bytes_are_those_of_the_disk_on_which_the_folder_lies(small_disk):  # noqa: F811
    free = free_bytes(small_disk)
    assert 7 * MB < free <= 8 << 20
    (small_disk / "file").write_bytes(os.urandom(4 << 20))
    assert free - free_bytes(small_disk) == 4 << 20
    assert free_bytes(small_disk.parent) != free_bytes(small_disk)


# Room for a save


class Disk:
    """So many bytes free; `prune` and the passing of time may change that."""

    def __init__(self, free, prunable=0, freed_after=None):
        self.free, self.prunable, self.freed_after = free, prunable, freed_after
        self.log, self.slept = [], 0.0

    def prune(self, short):
        self.log.append(("prune", short))
        self.free += min(self.prunable, short)

    def report(self, code, message):
        self.log.append((code, message))

    def sleep(self, seconds):
        self.slept += seconds
        if self.freed_after is not None and self.slept >= self.freed_after:
            self.free += 10**12

    def room(self, needed, weights=None, pause=60.0):
        return make_room(
            Path(),
            needed,
            weights,
            prune=self.prune,
            report=self.report,
            pause_seconds=pause,
            free=lambda folder: self.free,
            sleep=self.sleep,
        )

    @property
    def codes(self):
        return [code for code, _ in self.log]


def test_with_room_nothing_is_pruned_and_nothing_is_said():
    disk = Disk(100 * MB + RESERVE_BYTES)
    assert disk.room(100 * MB, 20 * MB) is Room.ALL
    assert disk.log == []


def test_a_shortage_first_prunes_by_what_is_short():
    disk = Disk(60 * MB + RESERVE_BYTES, prunable=50 * MB)
    assert disk.room(100 * MB, 20 * MB) is Room.ALL
    assert disk.log[0] == ("prune", 40 * MB)
    assert disk.codes == ["prune", "disk_short"]


def test_then_it_is_content_with_weights():
    disk = Disk(60 * MB + RESERVE_BYTES, prunable=10 * MB)
    assert disk.room(100 * MB, 20 * MB) is Room.WEIGHTS
    assert disk.codes == ["prune", "disk_short"]
    assert "0.10 GB are needed" in disk.log[1][1] and disk.slept == 0


@pytest.mark.parametrize("weights", [None, 90 * MB])
def test_then_it_waits_until_there_is_room(weights):
    disk = Disk(60 * MB, freed_after=25)
    assert disk.room(100 * MB, weights) is Room.ALL
    assert disk.codes == ["prune", "disk_full", "disk_room"]
    assert 25 <= disk.slept <= 30


def test_then_it_stops_training_after_the_time_that_was_asked_for():
    disk = Disk(60 * MB)
    with pytest.raises(StopTraining, match=r"the disk is full: 0\.10 GB are needed and 0\.06 GB are free"):
        disk.room(100 * MB, None, pause=25.0)
    assert disk.slept == 25.0
    with pytest.raises(StopTraining):
        Disk(0).room(1, None, pause=0)


def test_when_training_is_over_it_does_without():
    disk = Disk(60 * MB)
    assert disk.room(100 * MB, None, pause=None) is Room.NONE
    assert disk.codes == ["prune", "disk_full"] and disk.slept == 0


def test_a_real_disk_of_eight_megabytes_has_no_room_and_a_large_one_has(small_disk, tmp_path):  # noqa: F811
    def room(folder):
        return make_room(folder, MB, None, prune=lambda size: None, report=lambda *what: None, pause_seconds=None)

    assert room(small_disk) is Room.NONE
    if shutil.disk_usage(tmp_path).free > 2 * RESERVE_BYTES:
        assert room(tmp_path) is Room.ALL


# Room in memory


def test_memory_is_counted_by_the_system():
    psutil = pytest.importorskip("psutil")
    assert memory_allows(0) and memory_allows(-5)
    assert not memory_allows(psutil.virtual_memory().total)


@pytest.mark.parametrize(
    ("limit", "used", "cache", "allows"),
    [("max", 0, 0, True), (3 << 30, 1 << 30, 0, True), (3 << 30, 2 << 30, 0, False), (3 << 30, 2 << 30, 1 << 30, True)],
)
def test_a_containers_limit_counts_and_memory_of_cached_files_does_not(
    tmp_path, monkeypatch, limit, used, cache, allows
):
    psutil = pytest.importorskip("psutil")
    from xtts_gatekeeper import host_memory

    files = [tmp_path / name for name in ("max", "current", "stat")]
    for file, text in zip(files, (limit, used, f"anon 5\ninactive_file {cache}"), strict=True):
        file.write_text(f"{text}\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    monkeypatch.setattr(host_memory, "_CGROUPS", ((*map(str, files), "inactive_file"),))
    assert memory_allows(1 << 30) is allows
