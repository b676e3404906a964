"""The memory of this machine, and of a container that allows less of it."""

import mmap

import pytest

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.host_memory import available_bytes, process_bytes, total_bytes

psutil = pytest.importorskip("psutil")

MB, GB = 1 << 20, 1 << 30

#: What stands in the file of a limit where there is none, in version 2 and 1.
NO_LIMIT = {2: "max", 1: str((1 << 63) - 4096)}
#: The statistic of memory that can be taken back, in version 2 and 1.
CACHE = {2: "inactive_file", 1: "total_inactive_file"}


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Make the files of a container: `groups(2, limit, used, cache)`; without a call there is none."""
    monkeypatch.setattr(host_memory, "_CGROUPS", ())

    def make(version, limit, used, cache, statistics=None):
        folder = tmp_path / f"version{version}"
        folder.mkdir()
        content = {
            "limit": str(limit),
            "used": str(used),
            "statistics": statistics or f"anon 7\ninactive_anon 5\n{CACHE[version]} {cache}\nactive_file 3",
        }
        for name, text in content.items():
            (folder / name).write_text(f"{text}\n")
        group = (*(str(folder / name) for name in content), CACHE[version])
        monkeypatch.setattr(host_memory, "_CGROUPS", (*host_memory._CGROUPS, group))
        return folder

    return make


# The system


def test_without_a_container_memory_is_what_the_system_says(groups):
    assert total_bytes() == psutil.virtual_memory().total
    assert available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert 0 < available_bytes() < total_bytes()


def test_where_this_runs_memory_is_never_more_than_the_system_has():
    """With whatever limit there is here."""
    assert 0 < total_bytes() <= psutil.virtual_memory().total
    assert 0 < available_bytes() <= total_bytes()


def test_the_memory_of_this_process_is_what_it_has_in_memory():
    before = process_bytes()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    with mmap.mmap(-1, 100 * MB) as block:  # pages that are new, whatever the process has had before
        for _ in range(100):
            block.write(b"x" * MB)
        assert 90 * MB < process_bytes() - before < 150 * MB


# A container


@pytest.mark.parametrize("version", [2, 1])
@pytest.mark.parametrize(
    ("limit", "used", "cache", "left"),
    [
        (300 * MB, 0, 0, 300 * MB),
        (300 * MB, 100 * MB, 0, 200 * MB),
        (300 * MB, 100 * MB, 60 * MB, 260 * MB),  # the system takes back what it keeps of files
        (300 * MB, 300 * MB, 0, 0),
        (300 * MB, 300 * MB, 300 * MB, 300 * MB),
    ],
)
def test_a_containers_limit_counts_less_what_is_in_use_and_cannot_be_taken_back(
    groups, version, limit, used, cache, left
):
    groups(version, limit, used, cache)
    assert total_bytes() == limit
    assert available_bytes() == left


@pytest.mark.parametrize("version", [2, 1])
def test_a_container_without_a_limit_has_what_the_system_has(groups, version):
    groups(version, NO_LIMIT[version], 5 * GB, 0)
    assert total_bytes() == psutil.virtual_memory().total
    assert available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize("version", [2, 1])
def test_a_limit_above_what_there_is_gives_no_more(groups, version):
    groups(version, 1 << 60, 0, 0)
    assert total_bytes() == psutil.virtual_memory().total
    assert available_bytes() <= psutil.virtual_memory().total


def test_of_two_limits_the_smaller_one_counts(groups):
    groups(2, 300 * MB, 290 * MB, 0)
    groups(1, 200 * MB, 50 * MB, 0)
    assert total_bytes() == 200 * MB
    assert available_bytes() == 10 * MB


def test_a_limit_beside_one_that_is_none_counts(groups):
    groups(2, "max", 0, 0)
    groups(1, 200 * MB, 50 * MB, 0)
    assert (total_bytes(), available_bytes()) == (200 * MB, 150 * MB)


@pytest.mark.parametrize("version", [2, 1])
def test_a_statistic_that_is_not_told_counts_as_nothing_to_take_back(groups, version):
    groups(version, 300 * MB, 100 * MB, 0, statistics="anon 7\nfile 8")
    assert available_bytes() == 200 * MB


@pytest.mark.parametrize("version", [2, 1])
@pytest.mark.parametrize("name", ["limit", "used"])
@pytest.mark.parametrize("text", [None, "", "max", "nothing that counts"])
def test_files_that_cannot_be_read_are_no_limit(groups, version, name, text):
    file = groups(version, 300 * MB, 100 * MB, 0) / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert total_bytes() == psutil.virtual_memory().total
