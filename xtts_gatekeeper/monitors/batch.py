"""What a batch is made of: how many clips, which files, how much audio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Keys under which Coqui's datasets name the clips of a batch, the most telling first.
_FILES = ("filenames", "audio_files", "audio_unique_names", "item_idxs")


@dataclass(frozen=True)
class Batch:
    """One batch as the data loader gave it, before the step has emptied it.

    `files` is empty where the model's dataset does not name its clips; `audio_seconds` is None where it does not say
    how long they are.
    """

    size: int
    files: tuple[str, ...] = ()
    audio_seconds: float | None = None
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)


def describe(batch: Any, sample_rate: int | None) -> Batch:
    """Describe a batch of a data loader. Nothing is copied and no tensor is read but the clips' lengths, on the host.

    Args:
        batch: a dict of tensors and lists (XTTS: `wav` (clips, 1, samples), `wav_lengths` in samples, `filenames`), or
            a list of tensors.
        sample_rate: of the audio, in Hz.
    """
    content = dict(batch) if isinstance(batch, Mapping) else {}
    return Batch(batch_size(batch), files_in(content), _audio_seconds(content, sample_rate), content)


def files_in(batch: Any) -> tuple[str, ...]:
    """The names of the clips of a batch, where its dataset gives them."""
    content = batch if isinstance(batch, Mapping) else {}
    files = next((content[key] for key in _FILES if isinstance(content.get(key), list | tuple)), ())
    return tuple(map(str, files))


def batch_size(batch: Any) -> int:
    """The number of samples in a batch as the data loader gives it: the length of its first sized value."""
    values = [batch] if hasattr(batch, "shape") else batch.values() if isinstance(batch, Mapping) else batch
    for value in values or ():
        if hasattr(value, "shape") and len(value.shape) > 0:
            return int(value.shape[0])
        if isinstance(value, list | tuple):
            return len(value)
    return 1


def clips_that_are_no_numbers(batch: Batch) -> list[str]:
    """The files of the clips whose own tensors hold NaN or infinity."""
    bad: set[int] = set()
    for value in batch.content.values():
        if hasattr(value, "is_floating_point") and value.dim() > 0 and len(value) == batch.size:
            if value.is_floating_point():
                finite = value.isfinite().reshape(len(value), -1).all(dim=1)
                bad.update(row for row, fine in enumerate(finite.tolist()) if not fine)
        elif isinstance(value, list | tuple) and len(value) == batch.size:
            for row, item in enumerate(value):
                if hasattr(item, "is_floating_point") and item.is_floating_point() and not item.isfinite().all():
                    bad.add(row)
    return [batch.files[row] for row in sorted(bad) if row < len(batch.files)]


def _audio_seconds(content: Mapping[str, Any], sample_rate: int | None) -> float | None:
    lengths: Any = content.get("wav_lengths")
    if not sample_rate or not hasattr(lengths, "dim") or lengths.dim() != 1 or lengths.device.type != "cpu":
        return None
    return float(lengths.numpy().sum()) / sample_rate
