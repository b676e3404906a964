"""The copy of a training state from which a file is written while training goes on."""

import io
import math
from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch")

from xtts_gatekeeper.checkpoints.snapshot import (  # noqa: E402
    HostCopy,
    difference,
    not_finite,
    state_bytes,
    tensors,
)


def saved(state):
    """The bytes that torch writes for a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def loaded(state):
    return torch.load(io.BytesIO(saved(state)), weights_only=True)


def odd_state():
    """Tensors of every kind that a state may hold, in every kind of container."""
    torch.manual_seed(0)
    large = torch.randn(6, 50)
    tied = torch.randn(7, 3)
    model = OrderedDict(
        {
            "embedding": tied,
            "head": tied,
            "row": large[2],
            "strided": large[:, ::7],
            "transposed": large.t(),
            "empty": torch.empty(0, 5),
            "scalar": torch.tensor(3.5),
            "flag": torch.tensor([True, False, True]),
            "numbers": torch.arange(9),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "half": torch.randn(5).half(),
            "bf16": torch.randn(5).bfloat16(),
            "float8": torch.randn(5).to(torch.float8_e4m3fn),
            "double": torch.randn(3).double(),
            "complex": torch.randn(4, dtype=torch.complex64),
            "not a number": torch.tensor([math.nan, math.inf, -0.0]),
            "sparse": torch.eye(4).to_sparse(),
            "compressed": torch.eye(4).to_sparse_csr(),
            "parameter": torch.nn.Parameter(torch.randn(3)).detach(),
        }
    )
    model._metadata = OrderedDict({"": {"version": 1}})
    return {
        "config": {"name": "run", "list": [1, {"deep": "x"}], "none": None},
        "model": model,
        "optimizer": [{"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.randn(7, 3)}}, "param_groups": []}],
        "tuple": (torch.ones(2), [torch.zeros(3), (torch.ones(1), "text")]),
        "model_loss": {"train_loss": None, "eval_loss": 2.5},
        "step": 12,
        "nan": math.nan,
    }


def test_a_copy_is_equal_bit_by_bit_and_saves_as_just_as_many_bytes():
    state = odd_state()
    twin = HostCopy().copy(state)
    assert difference(twin, state) is None
    assert difference(loaded(twin), state) is None
    assert len(saved(twin)) == len(saved(state))
    assert type(twin["model"]) is OrderedDict
    assert twin["model"]._metadata == state["model"]._metadata
    assert [type(value) for value in twin["tuple"]] == [torch.Tensor, list]
    assert [(n, t.dtype, t.stride() if t.layout == torch.strided else None) for n, t in tensors(twin)] == [
        (n, t.dtype, t.stride() if t.layout == torch.strided else None) for n, t in tensors(state)
    ]


def test_tensors_that_share_memory_share_it_in_the_copy():
    state = odd_state()
    twin = HostCopy().copy(state)["model"]
    assert twin["embedding"].data_ptr() == twin["head"].data_ptr()
    assert twin["row"].data_ptr() == twin["strided"].data_ptr() + 2 * 50 * 4
    again = loaded(HostCopy().copy(state))["model"]
    assert again["embedding"].data_ptr() == again["head"].data_ptr()


def test_a_view_of_a_larger_tensor_is_saved_with_all_of_it_as_from_the_live_state():
    state = {"model": {"part": torch.randn(1000)[:10]}}
    assert len(saved(HostCopy().copy(state))) == len(saved(state)) > 4000


def test_what_torch_only_notes_about_a_tensor_is_carried_out_in_the_copy():
    state = {"conjugated": torch.randn(4, dtype=torch.complex64).conj()}
    state["negated"] = state["conjugated"].imag
    twin = HostCopy().copy(state)
    assert state["negated"].is_neg()
    assert difference(twin, state) is None
    assert difference(loaded(twin), state) is None


def test_later_changes_of_the_source_do_not_show_in_the_copy():
    state = odd_state()
    twin = HostCopy().copy(state)
    for _, tensor in tensors(state):
        if tensor.layout == torch.strided:
            tensor.zero_()
        else:
            (tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()).zero_()
    state["config"]["list"][1]["deep"] = "changed"
    state["model"].clear()
    assert difference(twin, odd_state()) is None


def test_a_model_and_its_optimizer_load_from_the_copy_and_train_on_alike():
    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()

    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    kept = HostCopy().copy({"model": model.state_dict(), "optimizer": [optimizer.state_dict()]})
    step(model, optimizer)
    other = torch.nn.Linear(4, 4)
    optimizer_of_other = torch.optim.AdamW(other.parameters())
    state = loaded(kept)
    other.load_state_dict(state["model"])
    optimizer_of_other.load_state_dict(state["optimizer"][0])
    step(other, optimizer_of_other)
    assert difference(other.state_dict(), model.state_dict()) is None


def test_the_next_copy_uses_the_same_memory_and_grows_only_when_it_must():
    host = HostCopy()
    first = host.copy({"a": torch.ones(1000), "b": torch.ones(10)})
    places, size = [t.data_ptr() for _, t in tensors(first)], host.bytes
    second = host.copy({"a": torch.zeros(1000), "b": torch.zeros(10)})
    assert [t.data_ptr() for _, t in tensors(second)] == places
    assert host.bytes == size
    assert not second["a"].any()
    host.copy({"a": torch.ones(2000)})
    assert host.bytes > size


def test_memory_prepared_beforehand_is_what_the_copy_uses():
    host = HostCopy()
    host.prepare(1 << 20)
    assert host.bytes == 1 << 20
    area = torch.frombuffer(host._area, dtype=torch.uint8)
    twin = host.copy({"a": torch.ones(1000)})
    assert area.data_ptr() <= twin["a"].data_ptr() < area.data_ptr() + (1 << 20)
    assert host.bytes == 1 << 20


def test_memory_that_could_not_be_had_is_not_counted(monkeypatch):
    import mmap

    def fails(*arguments):
        raise OSError(12, "Cannot allocate memory")

    host = HostCopy()
    monkeypatch.setattr(mmap, "mmap", fails)
    with pytest.raises(OSError, match="allocate"):
        host.prepare(1 << 20)
    assert host.bytes == 0
    monkeypatch.undo()
    assert difference(host.copy({"a": torch.ones(3)}), {"a": torch.ones(3)}) is None


@pytest.mark.parametrize("state", [{}, {"model": {}}, {"model": {"w": torch.empty(0)}}, {"step": 3}])
def test_a_state_with_nothing_to_copy_is_copied(state):
    assert difference(HostCopy().copy(state), state) is None


# Looking at states


@pytest.mark.parametrize("name", [name for name, _ in tensors(odd_state()) if "empty" not in name])
def test_one_changed_element_is_found_wherever_it_is(name):
    state, other = odd_state(), odd_state()
    tensor = dict(tensors(other))[name]
    if tensor.layout == torch.sparse_coo:
        tensor._values()[-1] += 1
    elif tensor.layout != torch.strided:
        tensor.values()[-1] += 1
    else:
        last = tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        index = tuple(size - 1 for size in last.shape)
        last[index] = ~last[index] if last.dtype == torch.bool else last[index] + 1
        if "not a number" in name:
            tensor[0] = 0.0
    assert difference(state, odd_state()) is None
    assert difference(state, other) is not None
    assert difference(other, state) is not None


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ({"w": torch.tensor([0.0])}, {"w": torch.tensor([-0.0])}, "w"),  # equal, and not the same bits
        ({"w": torch.tensor([math.nan])}, {"w": torch.tensor([math.nan])}, None),
        ({"w": torch.tensor([True])}, {"w": torch.tensor([False])}, "w"),
        ({"w": torch.ones(2)}, {"w": torch.ones(2).half()}, "w"),
        ({"w": torch.ones(2)}, {"w": torch.ones(1, 2)}, "w"),
        ({"w": torch.eye(2)}, {"w": torch.eye(2).to_sparse()}, "w"),
        ({"w": torch.ones(2)}, {"w": [1.0, 1.0]}, "w"),
        ({"w": torch.ones(2)}, {"w": 1.0}, "w"),
        ({"w": 1.0}, {"w": torch.ones(2)}, "w"),
        ({"w": torch.ones(1)}, {"v": torch.ones(1)}, " (other keys)"),
        ({"m": {"w": 1}}, {"m": {}}, "m (other keys)"),
        ({"o": [{"lr": 1.0}]}, {"o": [{"lr": 2.0}]}, "o.0.lr"),
        ({"o": [1, 2]}, {"o": [1]}, "o"),
        ({"o": (1, 2)}, {"o": [1, 2]}, None),
        ({"o": math.nan}, {"o": math.nan}, None),
        ({"o": None}, {"o": 0}, "o"),
    ],
)
def test_where_two_states_differ_is_named(one, other, where):
    assert difference(one, other) == where


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.half, torch.bfloat16, torch.complex64, torch.float8_e5m2]
)
def test_a_single_value_that_is_not_finite_is_found(value, dtype):
    good = torch.ones(3, 1000).to(dtype)
    state = {"model": {"good": good, "bad": torch.zeros(3, 1000)}, "optimizer": [{"state": {0: good}}]}
    assert not_finite(state) == []
    bad = torch.ones(3, 1000, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    bad[1, 500] = value
    state["model"]["bad"] = bad.to(dtype)
    assert not_finite(state) == ["model.bad"]
    assert not_finite([state]) == ["0.model.bad"]


def test_what_is_sparse_conjugated_whole_or_empty_is_looked_at_too():
    bad = torch.eye(3)
    bad[2, 2] = math.inf
    state = {
        "sparse": bad.to_sparse(),
        "rows": bad.to_sparse_csr(),
        "conjugated": (bad * 1j).conj(),
        "fine": torch.eye(3).to_sparse(),
        "whole": torch.tensor([2**62]),
        "flags": torch.tensor([True]),
        "empty": torch.empty(0),
        "none": torch.empty(3, 0).to_sparse(),
    }
    assert not_finite(state) == ["sparse", "rows", "conjugated"]


def test_bytes_of_a_state_count_shared_memory_once():
    tied = torch.randn(100)
    assert state_bytes({"a": tied, "b": tied, "c": [tied[:50]]}) == 400
    assert state_bytes({"a": tied, "b": tied.clone()}) == 800
    assert state_bytes({"a": tied[:1]}) == 400  # torch writes all of it
    assert state_bytes({"a": torch.empty(0), "step": 3}) == 0
    assert abs(state_bytes({"a": torch.zeros(10**6, dtype=torch.half)}) - len(saved(torch.zeros(10**6).half()))) < 4096


def test_an_attention_mask_of_minus_infinity_is_as_it_should_be():
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf)
    assert not_finite({"model": {"mask": mask}}) == []
    mask[1, 0] = math.nan
    assert not_finite({"model": {"mask": mask}}) == ["model.mask"]
