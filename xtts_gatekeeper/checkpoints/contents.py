"""What a checkpoint holds, read from its pickle alone: no tensor is read, nothing in it is run, torch is not needed."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

#: The key of a checkpoint under which our phases put where they stand; stock code passes it over.
CARRIED = "gatekeeper"

_LOCAL = struct.Struct("<4s5H3L2H")
_HAS_DESCRIPTOR = 1 << 3
_LOCAL_MARK = b"PK\3\4"
_DESCRIPTOR = b"PK\7\x08"
#: How much of a file is read in search of its pickle, before the directory is asked: most pickles are small.
_HEADS = (1 << 16, 1 << 23)
_LARGEST_PICKLE = 1 << 28
#: The first of the five pickles of torch's format before 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
#: Bytes of one element; packed types, of which several share a byte, are counted as one.
_ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1, "complex128": 16, "complex64": 8, "complex32": 4,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
}  # fmt: skip


class Unreadable(ValueError):
    """The file has no pickle that can be read; a fragment of a sentence."""


class UnsafePickle(ValueError):
    """The pickle names something that torch's own safe loading would not run; a fragment of a sentence."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the pickle describes it. `bytes` is what its elements take, shared ones counted for each tensor."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Contents:
    """What lies in a checkpoint.

    `keys` are those of the dict itself; `resumable` says that it has a model and the state of an optimizer;
    `model_loss` is what the Trainer stored as the value of the best; `carried` is what our phases put
    in; `classes` are the Coqui config classes that it holds whole objects of, as files of old versions do. Of a file
    that is no checkpoint, but a bare dict of weights or a tensor, only `keys` tells something.
    """

    step: int | None = None
    epoch: int | None = None
    keys: frozenset[str] = frozenset()
    resumable: bool = False
    model: Mapping[str, TensorInfo] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    model_loss: Mapping[str, Any] | float | None = None
    is_checkpoint: bool = False
    classes: frozenset[str] = frozenset()
    carried: Mapping[str, Any] | None = None


def peek(path: Path) -> Contents:
    """Read what the checkpoint at `path` holds; about a millisecond for a small one.

    Its pickle lies at the start of the file, and its CRC-32 is checked before a byte of it is interpreted. The rest of
    the file is not looked at: `checkpoints.integrity` tells whether that is whole.

    Raises:
        Unreadable: no file, no format of torch's, or damaged.
        UnsafePickle: the pickle wants to run something. It has run nothing.
    """
    try:
        with path.open("rb") as file:
            legacy = file.read(1) == b"\x80"
            unpickler = _legacy_unpickler(file) if legacy else _Unpickler(io.BytesIO(_pickle_of(file)))
            found = unpickler.load()
            return _contents(found, frozenset(unpickler.classes))
    except (Unreadable, UnsafePickle):
        raise
    except OSError as error:
        raise Unreadable(f"it cannot be read ({error.strerror or error})") from None
    except Exception as error:  # an unpickler meets damage with any kind of error
        raise Unreadable(f"its pickle is damaged ({type(error).__name__})") from None


def _contents(found: object, classes: frozenset[str]) -> Contents:
    if not isinstance(found, dict):
        return Contents(classes=classes)
    keys = frozenset(key for key in found if isinstance(key, str))
    if "model" not in keys:
        return Contents(keys=keys, classes=classes)
    model, config = _dict(found["model"]), _dict(found.get("config"))
    loss = found.get("model_loss")
    return Contents(
        step=_whole(found.get("step")),
        epoch=_whole(found.get("epoch")),
        keys=keys,
        resumable=bool(model) and _has_state(found.get("optimizer")),
        model={name: tensor for name, tensor in model.items() if isinstance(tensor, TensorInfo)},
        config=config,
        model_loss=loss if isinstance(loss, dict | float) else None,
        is_checkpoint=True,
        classes=classes,
        carried=_dict(found.get(CARRIED)) or None,
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _has_state(optimizer: object) -> bool:
    """Whether it is the state of an optimizer, or of several in a list (Trainer 0.4) or a dict."""
    if isinstance(optimizer, list | tuple):
        return any(_has_state(one) for one in optimizer)
    return isinstance(optimizer, dict) and bool(optimizer)


# The pickle's bytes


def _pickle_of(file: BinaryIO) -> bytes:
    """The bytes of the archive's data.pkl, their CRC-32 checked."""
    file.seek(0)
    head = file.read(_HEADS[0])
    if not head.startswith(_LOCAL_MARK):
        raise Unreadable("it is neither a zip archive nor a pickle, so torch did not write it")
    data = _first_record(head)
    if data is None and len(head) == _HEADS[0]:
        data = _first_record(head + file.read(_HEADS[1]))
    return _by_directory(file) if data is None else data


def _first_record(head: bytes) -> bytes | None:
    """The content of data.pkl where it is the first record and lies within `head`: the directory is not needed then."""
    if len(head) < _LOCAL.size:
        return None
    _, _, flags, method, _, _, crc, size, _, name_length, extra_length = _LOCAL.unpack_from(head)
    name_end = _LOCAL.size + name_length
    begin = name_end + extra_length
    if method != zipfile.ZIP_STORED or not head[_LOCAL.size : name_end].endswith(b"data.pkl"):
        return None
    if not flags & _HAS_DESCRIPTOR:
        data = head[begin : begin + size]
        return data if zlib.crc32(data) == crc and len(data) == size else None
    end = head.find(_DESCRIPTOR, begin)
    while end >= 0:  # the pickle may hold these four bytes by chance, but not with its own size and CRC after them
        if len(head) >= end + 12:
            crc, size = struct.unpack_from("<LL", head, end + 4)
            if size == end - begin and zlib.crc32(head[begin:end]) == crc:
                return head[begin:end]
        end = head.find(_DESCRIPTOR, end + 1)
    return None


def _by_directory(file: BinaryIO) -> bytes:
    """The content of data.pkl, found and checked by zipfile."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
            if not infos:
                raise Unreadable("it has no data.pkl, so torch did not write it")
            if infos[0].file_size > _LARGEST_PICKLE:
                raise Unreadable(f"its data.pkl claims {infos[0].file_size} bytes")
            return archive.read(infos[0])
    except Unreadable:
        raise
    except Exception as error:  # zipfile meets damage with a dozen kinds of error
        raise Unreadable(f"it is no whole zip archive ({type(error).__name__})") from None


def _legacy_unpickler(file: BinaryIO) -> _Unpickler:
    """At the third pickle of torch's format before 1.6: after magic number, version and the system's sizes."""
    file.seek(0)
    data = io.BytesIO(file.read(_LARGEST_PICKLE))
    if _Unpickler(data).load() != _LEGACY_MAGIC:
        raise Unreadable("it is a pickle, but not one that torch wrote")
    for _ in range(2):
        _Unpickler(data).load()
    return _Unpickler(data)


# The pickle's meaning


class _Ordered(dict[Any, Any]):
    """Stands for a dict class of the standard library."""


class _Record(dict[str, Any]):
    """Stands for an object of a config class: its fields."""


class _Opaque:
    """Stands for what nobody asks about."""

    __slots__ = ()

    def __init__(self, *_: object) -> None:
        pass


class _Kind(NamedTuple):
    """Stands for a dtype, or for the class of a storage of that dtype."""

    dtype: str


def _tensor(storage: object, _offset: object, shape: object, *rest: object) -> TensorInfo:
    """What `_rebuild_tensor`, `_v2` and `_v3` make: the last one gives the dtype as its seventh argument."""
    kind = rest[3] if len(rest) > 3 and isinstance(rest[3], _Kind) else storage
    if not isinstance(kind, _Kind) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise Unreadable("its pickle describes a tensor that torch does not have")
    return TensorInfo(kind.dtype, shape, prod(shape) * _ITEM_BYTES.get(kind.dtype, 1))


def _meta_tensor(dtype: object, shape: object, *_: object) -> TensorInfo:
    return _tensor(dtype, 0, shape)


def _parameter(data: object, *_: object) -> object:
    return data


def _of_type(rebuild: object, _type: object, arguments: object, *_: object) -> object:
    """What `_rebuild_from_type_v2` makes: a subclass of a tensor, or one with attributes of its own."""
    if rebuild not in _REBUILDS.values() or not isinstance(arguments, tuple):
        raise Unreadable("its pickle describes a tensor that torch does not have")
    made: object = rebuild(*arguments)  # type: ignore[operator]
    return made


def _size(shape: tuple[int, ...] = ()) -> tuple[int, ...]:
    return tuple(shape)


def _factory_dict(_factory: object = None, *_: object) -> _Ordered:
    return _Ordered()


_REBUILDS: dict[tuple[str, str], Callable[..., Any]] = {
    **{("torch._utils", f"_rebuild_tensor{version}"): _tensor for version in ("", "_v2", "_v3")},
    **{("torch._utils", f"_rebuild_parameter{more}"): _parameter for more in ("", "_with_state")},
    **{("torch._utils", f"_rebuild_{kind}tensor"): _Opaque for kind in ("sparse_", "sparse_csr_", "nested_", "q")},
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _meta_tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
}
#: Everything a pickle may name; what stands for it here does nothing.
_KNOWN: dict[tuple[str, str], Any] = {
    **_REBUILDS,
    **{("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): _Kind(name) for name in _ITEM_BYTES},
    **{("torch.storage", name): _Kind("uint8") for name in ("UntypedStorage", "TypedStorage")},
    ("torch", "Size"): _size,
    ("torch", "device"): _Opaque,
    ("torch", "Tensor"): _Opaque,
    ("torch.nn.parameter", "Parameter"): _Opaque,
    ("torch.serialization", "_get_layout"): _Opaque,
    ("collections", "OrderedDict"): _Ordered,
    ("collections", "Counter"): _Ordered,
    ("collections", "defaultdict"): _factory_dict,
    ("_codecs", "encode"): _Opaque,
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{
        (module, name): _Opaque
        for module in ("builtins", "__builtin__")
        for name in ("complex", "bytearray", "dict", "list", "int", "float")
    },
}
#: The classes whose objects Coqui stored in its XTTS v2 `model.pth`; coqui-tts lets torch load the same four.
_CONFIG_CLASSES = {
    *(("TTS.tts.configs.xtts_config", name) for name in ("XttsConfig", "XttsArgs", "XttsAudioConfig")),
    *(("TTS.tts.models.xtts", name) for name in ("XttsArgs", "XttsAudioConfig")),
    ("TTS.config.shared_configs", "BaseDatasetConfig"),
}


class _Unpickler(pickle._Unpickler):
    """Reads a pickle in which only the known names mean something, and nothing that does something.

    This is the standard library's unpickler in Python, not its twin in C: that one allocates as many bytes as a memo
    index in the pickle says, so that a few hostile bytes can use up the machine's memory.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    # Extension codes stand for names that other libraries registered in this process.
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch.pop(_code[0], None)
    del _code

    def __init__(self, data: io.BytesIO) -> None:
        super().__init__(data)
        self.classes: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CONFIG_CLASSES:
            self.classes.add(f"{module}.{name}")
            return _Record
        try:
            return _KNOWN[module, name]
        except KeyError:
            said = f"{module}.{name}"
            raise UnsafePickle(
                f"it wants to run {said if said.isprintable() and len(said) < 200 else ascii(said)[:200]}"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Kind)):
            raise Unreadable("its pickle refers to something that is no tensor's storage")
        return pid[1]

    def load_build(self) -> None:
        """Give the object on the stack its attributes: only config objects have any here."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, _Record) and isinstance(state, dict):
            target.update(state)
        elif not isinstance(target, _Ordered | _Opaque | TensorInfo):
            raise UnsafePickle(f"it wants to change a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]
