import builtins
import collections
import contextlib
import io
import os
import pickle
import random
import subprocess
import sys
import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.checkpoints.contents import Contents, TensorInfo, Unreadable, UnsafePickle, peek


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def saved(torch, tmp_path):
    """Save something with torch and return the path."""

    def save(value, **options):
        torch.save(value, tmp_path / "a.pth", **options)
        return tmp_path / "a.pth"

    return save


def archived(path, data, flags=0, **options):
    """A zip archive of zipfile's with this pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def checkpoint(torch, **changes):
    """The state that the Trainer saves, of a small model after one step."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2).half())
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = {
        "config": {"lr": 5e-6, "audio": {"sample_rate": 22050}, "languages": ["en", "ru"]},
        "model": model.state_dict(),
        "optimizer": [optimizer.state_dict()],
        "scheduler": [{"last_epoch": 1}],
        "scaler": None,
        "step": 12,
        "epoch": 3,
        "date": "January 01, 2025",
        "model_loss": {"train_loss": 1.5, "eval_loss": None},
    }
    return {key: value for key, value in {**state, **changes}.items() if value is not ...}


# What torch writes


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}])
def test_a_checkpoint_tells_everything_but_its_numbers(torch, saved, options):
    found = peek(saved(checkpoint(torch), **options))
    assert found == Contents(
        step=12,
        epoch=3,
        keys=frozenset(checkpoint(torch)),
        resumable=True,
        model={
            "0.weight": TensorInfo("float32", (3, 4), 48),
            "0.bias": TensorInfo("float32", (3,), 12),
            "1.weight": TensorInfo("float16", (2, 3), 12),
            "1.bias": TensorInfo("float16", (2,), 4),
        },
        config={"lr": 5e-6, "audio": {"sample_rate": 22050}, "languages": ["en", "ru"]},
        model_loss={"train_loss": 1.5, "eval_loss": None},
        is_checkpoint=True,
    )


@pytest.mark.parametrize(
    ("optimizer", "resumable"), [(..., False), (None, False), ([], False), ([{}], False), ({"state": {}}, True)]
)
def test_without_the_state_of_an_optimizer_nothing_can_be_resumed(torch, saved, optimizer, resumable):
    assert peek(saved(checkpoint(torch, optimizer=optimizer))).resumable is resumable


def test_an_empty_model_cannot_be_resumed(torch, saved):
    assert not peek(saved(checkpoint(torch, model={}))).resumable


@pytest.mark.parametrize(("loss", "told"), [(2.5, 2.5), (..., None), ("low", None), ({"a": 1.0}, {"a": 1.0})])
def test_the_stored_loss_is_a_number_or_several_or_none(torch, saved, loss, told):
    assert peek(saved(checkpoint(torch, model_loss=loss))).model_loss == told


def test_what_is_no_checkpoint_is_read_too(torch, saved):
    model = torch.nn.Linear(2, 2)
    assert peek(saved(model.state_dict())) == Contents(keys=frozenset({"weight", "bias"}))
    for value in (torch.ones(3), torch.nn.Parameter(torch.ones(3)), [1, 2], None, torch.ones(3).untyped_storage()):
        assert peek(saved(value)) == Contents()


KINDS = ("float64", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e5m2", "uint16")


def test_tensors_of_every_kind_are_described(torch, saved):
    kinds = [getattr(torch, name) for name in KINDS]
    tensors = {str(kind): torch.zeros(2, 5, dtype=kind) for kind in kinds}
    more = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(1.0),
        "view": torch.ones(10)[2:4],
        "meta": torch.ones(4, device="meta"),
        "buffer": torch.nn.Buffer(torch.ones(1)) if hasattr(torch.nn, "Buffer") else torch.ones(1),
    }
    more["view"].note = "a tensor with an attribute"
    model = peek(saved({"model": {**tensors, **more, "sparse": torch.eye(3).to_sparse()}, "more": more})).model
    for kind in kinds:
        assert model[str(kind)] == TensorInfo(str(kind)[6:], (2, 5), 10 * torch.zeros(1, dtype=kind).element_size())
    assert model["parameter"] == TensorInfo("float32", (2,), 8)
    assert model["scalar"] == TensorInfo("float32", (), 4)
    assert model["view"] == TensorInfo("float32", (2,), 8)
    assert model["meta"] == TensorInfo("float32", (4,), 16)
    assert "sparse" not in model


def test_harmless_values_beside_the_tensors_do_no_harm(torch, saved):
    values = {"set": {1, 2}, "bytes": b"ab", "complex": 1j, "device": torch.device("cpu"), "size": torch.Size([1])}
    counts = {"dtype": torch.float16, "count": collections.Counter("ab"), "more": collections.defaultdict(list, a=[1])}
    found = peek(saved(checkpoint(torch, **values, **counts)))
    assert found.is_checkpoint
    assert found.keys >= {*values, *counts}


def test_a_file_with_config_objects_like_the_published_xtts_is_read_without_importing_their_classes(saved, torch):
    sys.modules["TTS.tts.models.xtts"] = module = type(sys)("TTS.tts.models.xtts")
    try:
        module.XttsArgs = type("XttsArgs", (), {"__module__": "TTS.tts.models.xtts"})
        args = module.XttsArgs()
        args.gpt_layers = 30
        path = saved({"config": {"model_args": args}, "model": {"a": torch.ones(1)}})
    finally:
        del sys.modules["TTS.tts.models.xtts"]
    found = peek(path)
    assert found.config == {"model_args": {"gpt_layers": 30}}
    assert found.classes == {"TTS.tts.models.xtts.XttsArgs"}
    assert "TTS.tts.models.xtts" not in sys.modules


def test_a_large_pickle_and_one_that_is_not_the_first_record_are_found(tmp_path):
    large = pickle.dumps({"model": {}, "step": 5, "notes": [str(i) for i in range(20_000)]}, 2)
    assert len(large) > 1 << 16
    assert peek(archived(tmp_path / "a.pth", large)).step == 5
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data.pkl", large)
    assert peek(tmp_path / "b.pth").step == 5
    assert peek(archived(tmp_path / "c.pth", large, compression=zipfile.ZIP_DEFLATED)).step == 5


def test_a_large_pickle_of_torchs_is_found(torch, saved):
    notes = [str(i) for i in range(20_000)] + ["PK\7\x08PK\7\x08"]
    assert peek(saved(checkpoint(torch, notes=notes))).step == 12


def test_torch_is_not_imported(torch, saved):
    path = saved(checkpoint(torch))
    code = (
        "import sys; from pathlib import Path; from xtts_gatekeeper.checkpoints.contents import peek; "
        "print(peek(Path(sys.argv[1])).step, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.split() == ["12", "False"]


def test_a_thousand_small_files_take_seconds_at_most(torch, saved):
    path = saved(checkpoint(torch))
    began = time.perf_counter()
    for _ in range(1000):
        peek(path)
    assert time.perf_counter() - began < 5  # half a second; the rest is for a machine that is busy


# What nobody should load


class Runs:
    """Runs a function with these arguments when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(marker):
    """Things that would create the file `marker`, by their global."""
    command = f"echo x > {marker}"
    code = f"open({str(marker)!r}, 'w')"
    return {
        f"{os.system.__module__}.system": Runs(os.system, command),
        "builtins.eval": Runs(builtins.eval, code),
        "builtins.exec": [{"deep": (1, Runs(builtins.exec, code))}],
        "subprocess.check_call": Runs(subprocess.check_call, ["touch", str(marker)]),
        "_pickle.loads": Runs(pickle.loads, pickle.dumps(Runs(os.system, command))),
        "io.open": Runs(io.open, str(marker), "w"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, name, protocol):
    marker = tmp_path / "marker"
    data = pickle.dumps({"model": {}, "config": hostile(marker)[name]}, protocol)
    path = archived(tmp_path / "a.pth", data)
    with pytest.raises(UnsafePickle) as refused:
        peek(path)
    # The oldest protocols have other names for some modules.
    assert str(refused.value).startswith("it wants to run ")
    assert str(refused.value).endswith(name.partition(".")[2])
    assert not marker.exists()
    pickle.loads(data)  # the proof that it is hostile
    assert marker.exists()


def test_a_hostile_pickle_in_the_format_before_torch_1_6_is_refused(torch, saved, tmp_path):
    path = saved({"model": Runs(os.system, f"echo x > {tmp_path / 'marker'}")}, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafePickle, match="system"):
        peek(path)
    path.write_bytes(pickle.dumps(Runs(os.system, f"echo x > {tmp_path / 'marker'}"), 2))
    with pytest.raises(UnsafePickle, match="system"):
        peek(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",  # attributes for a function
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__N stb.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nset\nN)Nt.",
        b"\x80\x04\x8c\x0bcollections\x8c\x17OrderedDict.__init__\x93.",  # a path below a known name
        b"\x82\x01.",  # an extension code
        b"ctorch\nos.system\n.",
        b"ctorch.hub\nload\n.",
        b"c__main__\nprint\n.",
    ],
)
def test_tricks_with_what_is_known_end_in_a_refusal_or_in_nothing(tmp_path, data):
    from xtts_gatekeeper.checkpoints import contents

    before = {
        name: vars(value).copy()
        for name, value in vars(contents).items()
        if callable(value) and hasattr(value, "__dict__")
    }
    with contextlib.suppress(UnsafePickle, Unreadable):
        assert peek(archived(tmp_path / "a.pth", data)) == Contents()
    assert before == {name: vars(vars(contents)[name]).copy() for name in before}


def test_a_memo_index_of_many_gigabytes_costs_no_memory(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = archived(tmp_path / "a.pth", b"\x80\x02}r\xff\xff\xff\x7f.")
    assert peek(path) == Contents()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


# What cannot be read


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a zip archive nor a pickle"),
        (b"<html>404</html>", "neither a zip archive nor a pickle"),
        (b"PK\3\4", "no whole zip archive"),
        (b"\x80\x02}q\x00.", "not one that torch wrote"),
        (b"\x80", "damaged"),
    ],
)
def test_what_torch_did_not_write_is_unreadable(tmp_path, data, said):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(Unreadable, match=said):
        peek(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file_and_a_folder_are_unreadable(tmp_path, name):
    with pytest.raises(Unreadable, match="cannot be read"):
        peek(tmp_path / name)


def test_an_archive_without_a_pickle_is_unreadable(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(Unreadable, match=r"no data\.pkl"):
        peek(tmp_path / "a.pth")


def test_no_flipped_bit_of_the_pickle_is_interpreted(torch, saved):
    path = saved(checkpoint(torch))
    whole = path.read_bytes()
    expected = peek(path)
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size
    begin = whole.index(b"\x80\x02")
    for place in random.Random(0).sample(range(begin, begin + size), 300):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(Unreadable):
            peek(path)
    path.write_bytes(whole)
    assert peek(path) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04}"]))
def test_no_bytes_at_all_end_in_another_error(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    path.write_bytes(start + data)
    with pytest.raises((Unreadable, UnsafePickle)):
        peek(path)
    try:
        peek(archived(path, start + data + b"."))
    except (Unreadable, UnsafePickle) as error:
        assert "\n" not in str(error)
