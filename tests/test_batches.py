"""Batches: what they hold, the clips in them that are no numbers, their parts, and the line that each step writes."""

import json
import math
from collections import OrderedDict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.monitors.batch import Batch, batch_size, clips_that_are_no_numbers, describe
from xtts_gatekeeper.record.steps import StepLog
from xtts_gatekeeper.trainer_port import clips_in, is_out_of_memory, split

torch = pytest.importorskip("torch", reason="torch comes with the train extra")

NAN, INF = float("nan"), float("inf")
FILES = ["a.wav", "b.wav", "c.wav"]


def numbers(*shape):
    """A tensor of different finite numbers."""
    return torch.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)


def with_bad(tensor, bad, *at):
    """The tensor with one value replaced."""
    tensor[at] = bad
    return tensor


# What a batch is made of


def xtts_batch():
    """As the data set of the XTTS trainer gives it."""
    return {
        "text_lengths": torch.tensor([3, 2, 4]),
        "wav": numbers(3, 1, 22050),
        "wav_lengths": torch.tensor([22050, 11025, 5000], dtype=torch.int32),
        "filenames": FILES,
        "conditioning": numbers(3, 1, 1, 100),
    }


def test_a_batch_of_xtts_tells_its_clips_their_files_and_how_much_audio_they_are():
    batch = describe(xtts_batch(), 22050)
    assert batch.size == 3
    assert batch.files == tuple(FILES)
    assert batch.audio_seconds == pytest.approx((22050 + 11025 + 5000) / 22050)


def test_what_was_described_stays_when_the_step_empties_the_batch():
    loaded = xtts_batch()
    wav = loaded["wav"]
    batch = describe(loaded, 22050)
    loaded.clear()
    assert batch.content["wav"] is wav
    assert batch.files == tuple(FILES)


def test_describing_a_batch_changes_nothing_in_it():
    loaded = xtts_batch()
    before = {key: list(value) if isinstance(value, list) else value.clone() for key, value in loaded.items()}
    describe(loaded, 22050)
    assert list(loaded) == list(before)
    assert loaded["filenames"] == before["filenames"]
    assert all(torch.equal(loaded[key], before[key]) for key in loaded if key != "filenames")


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ({}, ()),
        ({"filenames": FILES}, FILES),
        ({"audio_files": FILES}, FILES),
        ({"audio_unique_names": FILES}, FILES),
        ({"item_idxs": FILES}, FILES),
        ({"item_idxs": [4, 7, 9]}, ("4", "7", "9")),
        ({"item_idxs": ["1", "2", "3"], "audio_files": FILES}, FILES),  # the most telling first
        ({"filenames": tuple(FILES)}, FILES),
        ({"filenames": None, "audio_files": FILES}, FILES),
        ({"filenames": "a.wav", "audio_files": FILES}, FILES),
        ({"speaker_names": ["x", "y", "z"]}, ()),
    ],
)
def test_files_are_what_the_data_set_names_them_by(keys, files):
    assert describe({"mel": numbers(3, 4), **keys}, 22050).files == tuple(files)


@pytest.mark.parametrize(
    ("lengths", "sample_rate", "seconds"),
    [
        (torch.tensor([100, 50]), 100, 1.5),
        (torch.tensor([100.0, 50.0]), 100, 1.5),
        (torch.tensor([2**30, 2**30, 2**30], dtype=torch.int32), 2**30, 3.0),  # more samples than an int32 holds
        (torch.tensor([]), 100, 0.0),
        (torch.tensor([100, 50]), None, None),
        (torch.tensor([100, 50]), 0, None),
        (torch.tensor([[100], [50]]), 100, None),
        (torch.tensor(100), 100, None),
        ([100, 50], 100, None),
        (None, 100, None),
        (torch.ones(2, device="meta"), 100, None),  # what is on a device is not fetched for it
    ],
)
def test_audio_is_the_sum_of_the_clips_lengths_where_these_are_on_the_host(lengths, sample_rate, seconds):
    assert describe({"wav": numbers(2, 1, 5), "wav_lengths": lengths}, sample_rate).audio_seconds == seconds


@pytest.mark.parametrize(
    "batch", [[numbers(3, 4), numbers(3)], (numbers(3, 4),), numbers(3, 4)], ids=["list", "tuple", "tensor"]
)
def test_a_batch_that_is_no_dict_has_a_size_and_nothing_else(batch):
    assert describe(batch, 22050) == Batch(3)
    assert describe(batch, 22050).content == {}


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (None, 1),
        ([], 1),
        ({}, 1),
        ({"text": "hello"}, 1),
        ({"step": 5, "loss": torch.tensor(2.0)}, 1),
        (torch.tensor(2.0), 1),
        (numbers(4), 4),
        (numbers(4, 2, 3), 4),
        ({"loss": torch.tensor(2.0), "wav": numbers(4, 2)}, 4),
        ({"name": "x", "files": FILES}, 3),
        ({"files": tuple(FILES)}, 3),
        ({"wav": numbers(0, 5)}, 0),
        ([torch.tensor(2.0), numbers(4, 2)], 4),
        ([["a", "b"], numbers(4, 2)], 2),
    ],
)
def test_the_size_is_the_length_of_the_first_value_that_has_one(batch, size):
    assert batch_size(batch) == size


def test_arrays_of_numpy_count_too():
    numpy = pytest.importorskip("numpy")
    assert batch_size({"wav": numpy.zeros((4, 2))}) == 4


# Clips that are no numbers


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        ({}, []),
        ({"wav": numbers(3, 1, 8)}, []),
        ({"wav": with_bad(numbers(3, 1, 8), NAN, 1, 0, 7)}, ["b.wav"]),
        ({"wav": with_bad(numbers(3, 1, 8), INF, 0, 0, 0)}, ["a.wav"]),
        ({"wav": with_bad(numbers(3, 1, 8), -INF, 2, 0, 3)}, ["c.wav"]),
        ({"wav": with_bad(with_bad(numbers(3, 8), NAN, 2, 0), INF, 0, 7)}, ["a.wav", "c.wav"]),
        ({"energy": torch.tensor([1.0, NAN, 2.0])}, ["b.wav"]),
        ({"wav": torch.full((3, 8), NAN)}, FILES),
        ({"mel": with_bad(numbers(3, 8), NAN, 1, 0), "wav": with_bad(numbers(3, 8), NAN, 0, 0)}, ["a.wav", "b.wav"]),
        ({"mel": with_bad(numbers(3, 8), NAN, 1, 0), "wav": with_bad(numbers(3, 8), NAN, 1, 5)}, ["b.wav"]),
        # Every kind of floating point; 65,504 is the largest number of 16 bits.
        ({"wav": with_bad(numbers(3, 8).half(), 1e5, 1, 0)}, ["b.wav"]),
        ({"wav": with_bad(numbers(3, 8).bfloat16(), NAN, 1, 0)}, ["b.wav"]),
        ({"wav": with_bad(numbers(3, 8).double(), 1e300, 1, 0)}, []),
        # Whole numbers are numbers, whatever their size.
        ({"tokens": torch.full((3, 8), 2**62)}, []),
        ({"mask": torch.ones(3, 8, dtype=torch.bool)}, []),
        # Lists with a tensor for each clip, of different lengths.
        ({"wavs": [numbers(5), with_bad(numbers(7), NAN, 6), numbers(2)]}, ["b.wav"]),
        ({"wavs": (with_bad(numbers(5), INF, 0), numbers(7), numbers(2))}, ["a.wav"]),
        ({"wavs": [torch.tensor([1, 2]), torch.tensor(5), torch.tensor([], dtype=torch.long)]}, []),
        ({"wavs": [torch.tensor(NAN), torch.tensor(1.0), torch.tensor([])]}, ["a.wav"]),
        ({"wavs": [numbers(5), None, with_bad(numbers(5), NAN, 1)]}, ["c.wav"]),
        ({"texts": ["nan", "inf", ""], "ids": [1, 2, 3]}, []),
        # What does not belong to single clips.
        ({"scale": torch.tensor(NAN)}, []),
        ({"statistics": torch.tensor([NAN] * 80)}, []),
        ({"statistics": [torch.tensor([NAN])]}, []),
        ({"wav": torch.ones(3, 0)}, []),
    ],
)
def test_the_clips_whose_own_tensors_hold_nan_or_infinity_are_named(content, bad):
    assert clips_that_are_no_numbers(Batch(3, tuple(FILES), content=content)) == bad


def test_a_batch_as_the_loader_gives_it_tells_its_bad_clip():
    batch = xtts_batch()
    batch["wav"][1, 0, 12000] = NAN
    assert clips_that_are_no_numbers(describe(batch, 22050)) == ["b.wav"]


def test_without_names_no_clip_can_be_told():
    content = {"wav": torch.full((3, 8), NAN)}
    assert clips_that_are_no_numbers(Batch(3, (), content=content)) == []
    assert clips_that_are_no_numbers(Batch(3, ("a.wav",), content=content)) == ["a.wav"]


@given(st.integers(1, 6), st.sets(st.integers(0, 5)), st.booleans(), st.sampled_from([NAN, INF, -INF]))
def test_whichever_clips_are_bad_these_are_told_in_order(clips, chosen, as_list, bad):
    chosen = {row for row in chosen if row < clips}
    wavs = [numbers(4) for _ in range(clips)]
    for row in chosen:
        wavs[row][row % 4] = bad
    files = tuple(f"{row}.wav" for row in range(clips))
    batch = Batch(clips, files, content={"wav": wavs if as_list else torch.stack(wavs)})
    assert clips_that_are_no_numbers(batch) == [f"{row}.wav" for row in sorted(chosen)]


# Parts


def plain(parts):
    """Parts with lists instead of tensors."""
    return [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in part.items()} for part in parts]


def test_a_batch_is_split_into_parts_with_the_rows_of_every_value():
    batch = {"wav": numbers(5, 2), "names": list("abcde"), "ids": tuple(range(5)), "text": torch.arange(5)}
    assert plain(split(batch, 2)) == [
        {"wav": [[1.0, 2.0], [3.0, 4.0]], "names": ["a", "b"], "ids": (0, 1), "text": [0, 1]},
        {"wav": [[5.0, 6.0], [7.0, 8.0]], "names": ["c", "d"], "ids": (2, 3), "text": [2, 3]},
        {"wav": [[9.0, 10.0]], "names": ["e"], "ids": (4,), "text": [4]},
    ]


def test_what_has_no_rows_belongs_to_every_part():
    batch = {"wav": numbers(3, 2), "language": "en", "step": 7, "scale": 0.5, "mask": None, "train": True}
    for part in split(batch, 2):
        assert {key: part[key] for key in ("language", "step", "scale", "mask", "train")} == {
            "language": "en",
            "step": 7,
            "scale": 0.5,
            "mask": None,
            "train": True,
        }


def test_any_mapping_is_split_and_left_as_it_was():
    batch = OrderedDict(wav=numbers(3, 2), names=["a", "b", "c"])
    assert [part["names"] for part in split(batch, 1)] == [["a"], ["b"], ["c"]]
    assert torch.equal(batch["wav"], numbers(3, 2)) and batch["names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("lengths", "size", "chosen"),
    [
        ([1, 2, 3], 1, [[2], [1], [0]]),
        ([1, 5, 3, 4], 2, [[1, 3], [0, 2]]),  # within a part they keep their order
        ([5, 1, 4, 3, 2], 2, [[0, 2], [3, 4], [1]]),
        ([2, 2, 2], 2, [[0, 1], [2]]),
        ([1, 2, 3], 3, [[0, 1, 2]]),
        ([1, 2, 3], 9, [[0, 1, 2]]),
    ],
)
def test_the_longest_clips_can_be_the_first(lengths, size, chosen):
    batch = {"wav": numbers(len(lengths), 2), "wav_lengths": torch.tensor(lengths), "row": list(range(len(lengths)))}
    parts = split(batch, size, longest_first=True)
    assert [part["row"] for part in parts] == chosen
    assert [part["wav_lengths"].tolist() for part in parts] == [[lengths[row] for row in rows] for rows in chosen]


@pytest.mark.parametrize(
    "lengths", [[1, 2, 3], torch.tensor([[1], [2], [3]]), None], ids=["a list", "two dimensions", "none"]
)
def test_without_lengths_in_a_row_the_clips_keep_their_order(lengths):
    batch = {"row": [0, 1, 2], "wav_lengths": lengths}
    assert [part["row"] for part in split(batch, 1, longest_first=True)] == [[0], [1], [2]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 25), st.booleans())
def test_the_parts_hold_every_clip_once_and_none_too_many(lengths, size, longest_first):
    clips = len(lengths)
    batch = {"wav_lengths": torch.tensor(lengths), "row": list(range(clips)), "wav": numbers(clips, 2)}
    parts = split(batch, size, longest_first=longest_first)
    rows = [row for part in parts for row in part["row"]]
    assert sorted(rows) == batch["row"]
    assert torch.equal(torch.cat([part["wav"] for part in parts]), batch["wav"][rows])
    assert all(clips_in(part) == size for part in parts[:-1]) and 1 <= clips_in(parts[-1]) <= size
    if longest_first:
        for part, after in pairwise(parts):
            assert part["wav_lengths"].min() >= after["wav_lengths"].max()
    else:
        assert rows == batch["row"]


@given(st.integers(2, 12), st.integers(1, 12))
def test_the_gradients_of_the_parts_by_their_shares_are_those_of_the_whole(clips, size):
    """What the split is for, on a mean over clips, in double precision."""
    batch = {"x": numbers(clips, 3).double(), "y": numbers(clips).double()}

    def gradient(part, share):
        weight = torch.zeros(3, dtype=torch.double, requires_grad=True)
        (share * ((part["x"] @ weight - part["y"]) ** 2).mean()).backward()
        return weight.grad

    whole = gradient(batch, 1.0)
    parts = [gradient(part, clips_in(part) / clips) for part in split(batch, size)]
    assert torch.allclose(sum(parts), whole, rtol=1e-12)


@pytest.mark.parametrize(
    "batch",
    [
        None,
        numbers(3, 2),
        [numbers(3, 2)],
        "text",
        {},
        {"language": "en", "step": 5},
        {"mask": None},
        {"wav": numbers(3, 2), "mel": numbers(4, 2)},
        {"wav": numbers(3, 2), "names": ["a", "b"]},
        {"wav": numbers(3, 2), "loss": torch.tensor(1.0)},
        {"wav": numbers(3, 2), "speaker": {"id": 5}},
        {"wav": numbers(3, 2), "sampler": object()},
    ],
)
def test_what_is_no_dict_of_values_by_clips_is_not_split(batch):
    assert split(batch, 1) is None


@pytest.mark.parametrize(
    ("batch", "clips"),
    [
        ({"wav": numbers(3, 2)}, 3),
        ({"names": ["a", "b"]}, 2),
        ({"language": "en", "mask": None, "loss": torch.tensor(1.0), "wav": numbers(4, 2)}, 4),
        ({"names": ()}, 0),
        ({"language": "en"}, 1),
        ({}, 1),
        (None, 1),
        (numbers(3, 2), 1),
        ([numbers(3, 2)], 1),
    ],
)
def test_a_formatted_batch_tells_how_many_clips_it_holds(batch, clips):
    assert clips_in(batch) == clips


# Out of memory


def test_the_real_error_of_the_allocator_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.float64)
    assert is_out_of_memory(caught.value)


def test_the_real_error_of_python_is_out_of_memory():
    with pytest.raises(MemoryError) as caught:
        bytearray(1 << 62)
    assert is_out_of_memory(caught.value)


def test_the_real_error_of_a_gpu_is_out_of_memory():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 45, dtype=torch.float64, device="cuda")
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, max allowed: 18.13 GB)."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("shape '[3, -1]' is invalid for input of size 4"), False),
        (RuntimeError(), False),
        (ValueError("out of memory"), False),
        (OSError("out of memory"), False),
        (KeyboardInterrupt("out of memory"), False),
    ],
)
def test_an_error_is_out_of_memory_by_its_class_or_by_what_a_runtime_error_says(error, expected):
    assert is_out_of_memory(error) is expected


# The line of each step


def lines(path):
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_steps_are_written_a_hundred_at_a_time(tmp_path):
    log = StepLog(tmp_path / "run" / "gatekeeper" / "steps.jsonl")
    written = []
    for step in range(250):
        log.add({"step": step})
        written.append(len(lines(log.path)))
    assert written == [0] * 99 + [100] * 100 + [200] * 51
    log.flush()
    assert [json.loads(line) for line in lines(log.path)] == [{"step": step} for step in range(250)]


def test_a_flush_writes_what_waits_once_and_nothing_makes_no_file(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.flush()
    assert not log.path.exists()
    log.add({"step": 1})
    log.flush()
    log.flush()
    assert lines(log.path) == ['{"step": 1}']


def test_a_later_process_goes_on_after_the_lines_of_the_one_before(tmp_path):
    for step in (1, 2):
        log = StepLog(tmp_path / "steps.jsonl")
        log.add({"step": step})
        log.flush()
    assert lines(log.path) == ['{"step": 1}', '{"step": 2}']


def test_what_is_no_finite_number_is_written_as_a_string_that_reads_back_as_one(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.add({"loss": NAN, "grad_norm": INF, "least": -INF, "lr": 1e-6, "none": None, "deeper": {"losses": [NAN, 1.0]}})
    log.flush()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (line,) = lines(log.path)
    assert json.loads(line, parse_constant=refuse) == {
        "loss": "nan",
        "grad_norm": "inf",
        "least": "-inf",
        "lr": 1e-6,
        "none": None,
        "deeper": {"losses": ["nan", 1.0]},
    }


@given(values=st.dictionaries(st.text(max_size=8), st.floats() | st.integers() | st.text(max_size=8), max_size=6))
def test_any_values_make_one_line_that_has_them(tmp_path_factory, values):
    log = StepLog(tmp_path_factory.mktemp("steps") / "steps.jsonl")
    log.add(values)
    log.flush()
    with log.path.open(encoding="utf-8", newline="\n") as file:
        (line,) = file
    read = json.loads(line)
    assert read.keys() == values.keys()
    for key, value in values.items():
        same = float(read[key]) if isinstance(value, float) else read[key]
        assert same == value or (value != value and same != same)


def test_what_a_disk_does_not_take_is_said_and_forgotten(tmp_path):
    """A folder in the file's place, for no user may write into that."""
    log = StepLog(tmp_path / "steps.jsonl")
    log.path.mkdir()
    log.add({"step": 1})
    with pytest.raises(OSError, match=r"steps\.jsonl"):
        log.flush()
    log.path.rmdir()
    log.add({"step": 2})
    log.flush()
    assert lines(log.path) == ['{"step": 2}']
