"""A copy of a training state in host memory, so that training can go on while it is written."""

from __future__ import annotations

import contextlib
import copy
import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

#: Every storage begins at a multiple of this many bytes in the copy, so that any type can be read there.
_ALIGNMENT = 64


class HostCopy:
    """Host memory for one copy of a state; the next copy uses it again.

    Copies go by storage, as `torch.save` does: tensors that share memory share it in the copy, and a view of a larger
    tensor is saved with all of it, just as from the live state. From a GPU the memory is pinned, so that the copy runs
    at the bus's speed.

    Touching memory for the first time is what costs: 0.3 GB/s in pages of 4 KB, 1.5 in huge ones, where copying into
    touched memory ran at 10 (measured on two virtual cores). So huge pages are asked for, and `prepare` can touch the
    memory beforehand, beside training.
    """

    def __init__(self) -> None:
        self._area: Any = None
        self.bytes = 0

    def prepare(self, size: int, *, pinned: bool = False) -> None:
        """Have at least `size` bytes ready. Not while another thread copies."""
        import torch

        if self._area is not None and self.bytes >= size and isinstance(self._area, mmap.mmap) != pinned:
            return
        self._area, self.bytes = None, 0  # before the new one is there: never both
        size = max(size, _ALIGNMENT)
        if pinned:
            area: Any = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        else:
            area = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel without them
                    area.madvise(mmap.MADV_HUGEPAGE)
            torch.frombuffer(area, dtype=torch.uint8).zero_()
        self._area, self.bytes = area, size

    def copy(self, state: Any) -> Any:
        """A copy of `state` (nested dicts, lists and tuples with tensors in them) that later training leaves as it is.

        It is valid until the next call. Anything that is no tensor is deep-copied.
        """
        import torch

        sources = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage() for _, tensor in tensors(state) if _plain(tensor)
        }
        on_gpu = any(source.device.type == "cuda" for source in sources.values())
        self.prepare(sum(_aligned(source.nbytes()) for source in sources.values()), pinned=on_gpu)
        copies, position = {}, 0
        for key, source in sources.items():
            size = source.nbytes()
            if not size:
                copies[key] = torch.UntypedStorage(0)
                continue
            # A buffer of its own for each, for torch.save writes all of a storage of which it is given a part.
            twin = torch.frombuffer(self._area, dtype=torch.uint8, count=size, offset=position)
            twin.copy_(torch.empty(0, dtype=torch.uint8, device=source.device).set_(source), non_blocking=True)
            copies[key] = twin.untyped_storage()
            position += _aligned(size)
        if on_gpu:
            torch.cuda.synchronize()
        return _with_storages(state, copies)


def area_bytes(size: int, *, pinned: bool) -> int:
    """What `HostCopy.prepare` really takes: torch rounds pinned memory up to a power of two."""
    return 1 << (size - 1).bit_length() if pinned and size > 1 else size


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _with_storages(value: Any, copies: Mapping[int, Any]) -> Any:
    """`value` with its tensors on the copies of their storages."""
    import torch

    if isinstance(value, torch.Tensor):
        if not _plain(value):
            return value.detach().cpu().clone()
        twin = copies[value.untyped_storage()._cdata]
        return torch.empty(0, dtype=value.dtype).set_(twin, value.storage_offset(), value.size(), value.stride())
    if isinstance(value, dict):
        filled = copy.copy(value)  # an OrderedDict of a model carries its versions beside its items
        for key, item in value.items():
            filled[key] = _with_storages(item, copies)
        return filled
    if type(value) in (list, tuple):
        return type(value)(_with_storages(item, copies) for item in value)
    return copy.deepcopy(value)


def _plain(tensor: Any) -> bool:
    """Whether the tensor is a dense one with a storage that can be copied byte for byte."""
    import torch

    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.device.type in ("cpu", "cuda", "mps")
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor of a nested state with its place, such as `model.gpt.wte.weight` or `optimizer.0.state.3.step`."""
    import torch

    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            yield from tensors(value, f"{name}.{number}" if name else str(number))


def state_bytes(state: Any) -> int:
    """Bytes of the tensors of a state, memory that several share counted once."""
    storages = {}
    for _, tensor in tensors(state):
        if _plain(tensor):
            source = tensor.untyped_storage()
            storages[source._cdata] = source.nbytes()
        else:
            storages[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(storages.values())


def not_finite(state: Any) -> list[str]:
    """The names of the tensors of a state that hold NaN or infinity.

    A mask as attention layers keep it, a matrix of zeros and minus infinity alone, is as it should be.
    """
    import torch

    found = []
    for name, tensor in tensors(state):
        if not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex()):
            values = _values(tensor.detach())
            values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
            if values.dtype.itemsize == 1:  # types of eight bits have no order
                values = values.float()
            finite = not values.numel() or all(torch.isfinite(extreme) for extreme in torch.aminmax(values))
            if not finite and not _is_mask(values):
                found.append(name)
    return found


def _is_mask(values: Any) -> bool:
    return values.ndim > 1 and bool(((values == -math.inf) | (values == 0)).all())


def _values(tensor: Any) -> Any:
    """The values that the tensor stores, a sparse one's without the zeros in between."""
    import torch

    if tensor.layout == torch.sparse_coo:
        return tensor._values()
    return tensor if tensor.layout == torch.strided else tensor.values()


def difference(saved: Any, live: Any) -> str | None:
    """Where two states differ, or None: every tensor bit by bit, everything else by equality."""
    import torch

    def differs(one: Any, other: Any, name: str) -> str | None:
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            same = (one.dtype, one.layout, one.shape) == (other.dtype, other.layout, other.shape)
            return None if same and _same_bits(one.detach().cpu(), other.detach().cpu()) else name
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if list(one) != list(other):
                return f"{name} (other keys)"
            pairs = ((one[key], other[key], f"{name}.{key}" if name else str(key)) for key in one)
        elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
            pairs = ((a, b, f"{name}.{number}") for number, (a, b) in enumerate(zip(one, other, strict=True)))
        else:
            tensor = isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor)
            return None if not tensor and (one == other or (one != one and other != other)) else name
        return next((where for pair in pairs if (where := differs(*pair)) is not None), None)

    return differs(saved, live, "")


def _same_bits(one: Any, other: Any) -> bool:
    """Whether two tensors of one type and shape hold the same bytes: `torch.equal` takes NaN for unlike itself."""
    import torch

    if one.is_quantized:
        return bool(one.equal(other))
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()

    def flat(tensor: Any) -> Any:
        return tensor.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)

    return bool(torch.equal(flat(one), flat(other)))
