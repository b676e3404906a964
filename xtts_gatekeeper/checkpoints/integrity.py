"""Whether a checkpoint file is whole, found out without loading it (and without torch)."""

from __future__ import annotations

import zipfile
from pathlib import Path


def damage(path: Path, *, legacy: bool = False) -> str | None:
    """What is wrong with the file, or None when its zip structure and the CRC-32 of every record hold.

    `torch.save` writes a zip archive with one record a tensor, so this reads every byte of every tensor. Some fields of
    the archive's directory carry no checksum: a flipped bit there can pass here and is met by the loader.

    Args:
        path: the file.
        legacy: let files pass that are in torch's format before 1.6, a pickle without checksums.
    """
    try:
        if legacy:
            with path.open("rb") as file:
                if file.read(1) == b"\x80":
                    return None
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "it has no data.pkl, so torch did not write it"
            broken = archive.testzip()
    except Exception as error:  # zipfile meets damage with a dozen kinds of error, zlib's and codecs' among them
        return f"it is no whole zip archive ({type(error).__name__}: {error})"
    return None if broken is None else f"the CRC of {broken} does not hold"
