"""A small disk of its own, to be really filled."""

import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a tmpfs of 8 MiB; skipped where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
