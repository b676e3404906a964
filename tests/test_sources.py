"""From a path to records: what is found, how it is decoded, and how a source that grows is followed.

The helpers below make up one small run in each form; `test_offline_verbs` uses them, too.
"""

import gzip
import math
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import curve, ended, evaluated, judged, record_of, saved, start, trained, write_run

from xtts_gatekeeper import offline
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.gates.replay import replay
from xtts_gatekeeper.record import Journal, RunRecord, journal_path
from xtts_gatekeeper.record.event_file import masked_crc
from xtts_gatekeeper.record.journal import to_json
from xtts_gatekeeper.record.sources import (
    Decoder,
    Follower,
    choose_run,
    evaluation_at,
    find_input,
    find_run,
    parser_for,
    read_run,
    read_runs,
)

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FALLING = (3.0, 2.6, 2.3)
KINDS = ("journal", "console", "tensorboard", "table")


# One run, in each form


def console_epoch(number, mel, steps=10, folder="/data/runs/a", last=29, more=""):
    """An epoch of `steps` batches of a Trainer that logs one of them, evaluates, and says a word."""
    base = number * steps
    header = f"\n\x1b[4m\x1b[1m > EPOCH: {number}/{last}\x1b[0m\n --> {folder}\n"
    header += f"\n\x1b[1m > TRAINING (2031-02-03 04:{number % 60:02}:00) \x1b[0m\n"
    step = f"\n\x1b[1m   --> STEP: 3/{steps} -- GLOBAL_STEP: {base + 3}\x1b[0m\n"
    step += f"     | > loss_text_ce: 0.03  (0.03)\n     | > loss_mel_ce: {mel:.4f}  ({mel + 0.1:.4f})\n"
    step += f"     | > loss: {mel + 0.03:.4f}  ({mel + 0.13:.4f})\n     | > current_lr: 5e-06 \n\n"
    block = "\n\x1b[1m > EVALUATION \x1b[0m\n\n\n  \x1b[1m--> EVAL PERFORMANCE\x1b[0m\n"
    block += f"     | > avg_loader_time: 0.1 (+0.01)\n     | > avg_loss_text_ce: 0.02 (+0.01)\n{more}"
    block += f"     | > avg_loss_mel_ce: {mel:.4f} (-0.1)\n     | > avg_loss: {mel + 0.02:.4f} (-0.1)\n\n"
    return header + step + block + f" > CHECKPOINT : {folder}/checkpoint_{base + steps}.pth\n"


def console_log(*mels, first=0, **options):
    """A console log of one process."""
    return "".join(console_epoch(number, mel, **options) for number, mel in enumerate(mels, first))


def _varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _message(number, data):
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _framed(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def scalar(tag, value, step):
    """One record of an event file."""
    inner = _message(1, tag.encode()) + struct.pack("<Bf", 0x15, value)
    head = struct.pack("<Bd", 0x09, 1.9e9 + step) + b"\x10" + _varint(step)
    return _framed(head + _message(5, _message(1, inner)))


EVENTS_BEGIN = _framed(struct.pack("<Bd", 0x09, 1.9e9) + _message(3, b"brain.Event:2"))


def events_epoch(number, mel, steps=10, **tags):
    """What the Trainer's TensorBoard logger writes in one epoch."""
    base, end = number * steps, (number + 1) * steps
    data = scalar("TrainIterStats/loss_mel_ce", mel, base + 3) + scalar("TrainIterStats/current_lr", 5e-6, base + 3)
    data += scalar("TrainEpochStats/avg_loss_mel_ce", mel, end) + scalar("TrainEpochStats/avg_loss", mel + 0.03, end)
    data += scalar("EvalStats/avg_loss_mel_ce", mel, end) + scalar("EvalStats/avg_loss", mel + 0.02, end)
    return data + b"".join(scalar(tag, value, end) for tag, value in tags.items())


def events_file(*mels, first=0):
    """An event file of one process."""
    return EVENTS_BEGIN + b"".join(events_epoch(number, mel) for number, mel in enumerate(mels, first))


def table_text(*mels, first=1):
    """A CSV file as a notebook writes it."""
    rows = (f"{epoch},{10 * epoch},{mel},{mel}\n" for epoch, mel in enumerate(mels, first))
    return "epoch,step,train_loss,val_loss\n" + "".join(rows)


def write_kind(folder, kind, *mels):
    """A source of `kind` whose evaluations have these values; returns what to give to a verb."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "journal":
        return write_run(folder, start(), curve(*mels))
    name, data = {
        "console": ("trainer_0_log.txt", console_log(*mels).encode()),
        "tensorboard": ("events.out.tfevents.1900000000.host.1.0", events_file(*mels)),
        "table": ("metrics.csv", table_text(*mels).encode()),
    }[kind]
    (folder / name).write_bytes(data)
    return folder / name


def bad_files(folder):
    """Files that are none of ours; name -> what the sentence says."""
    noise = random.Random(0)
    files = {
        "empty.log": (b"", "is empty"),
        "noise.bin": (noise.randbytes(70_000), "binary"),
        "zeros.log": (bytes(70_000), "binary"),
        "noise.txt": (b"\n" + noise.randbytes(100), "binary"),
        "old.pth": (pickle.dumps({"model": list(range(5000))}, protocol=2), "old pickle format"),
        "newer.pth": (pickle.dumps({"model": list(range(5000))}, protocol=4), "pickle"),
        "newest.pkl": (pickle.dumps({"model": "text" * 9000}, protocol=5), "pickle"),
        "log.gz": (gzip.compress(console_log(*FALLING).encode()), "gzip"),
        "curve.png": (b"\x89PNG\r\n\x1a\n" + noise.randbytes(500), "picture"),
        "clip.wav": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(500), "audio"),
        "paper.pdf": (b"%PDF-1.7\n" + b"text of a paper\n" * 99, "PDF"),
        "model.safetensors": (_safetensors(), "safetensors"),
        "events.out.tfevents.1": (noise.randbytes(9000), "no event file"),
        "events.out.tfevents.2": (EVENTS_BEGIN[:9], "no event file"),
        "events.out.tfevents.3": (b"", "is empty"),
        "prose.txt": (b"Dear diary, the loss was 2.5 today.\nIt will be 2.4 tomorrow.\n", "no output of a training"),
        "blank.txt": (b" \n\n", "no output of a training"),
        "settings.json": (b'{\n  "epochs": 30,\n  "lr": 1e-6\n}\n', "no output of a training"),
        "wide.txt": ("Zażółć gęślą jaźń\n".encode("utf-16"), "no output of a training"),
        "other.csv": (b"name,quality\nanna,3\nbert,4\n", "no output of a training"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(folder / "model.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return {"model.pth": "a checkpoint"} | {name: sentence for name, (_, sentence) in files.items()}


def _safetensors():
    entries = (f'"layer.{i}":{{"dtype":"F32","shape":[2],"data_offsets":[{8 * i},{8 * i + 8}]}}' for i in range(2000))
    header = ("{" + ",".join(entries) + "}").encode()
    return struct.pack("<Q", len(header)) + header + bytes(16_000)


def mels(record):
    """What the evaluations measured, whatever the source calls it."""
    return [round(e.metrics[record.resolve("eval.objective")], 4) for e in record.evaluations]


def said(records):
    """Records in a form in which NaN equals NaN."""
    return [repr((r.name, r.source, r.events, r.notes)) for r in records]


# Files that are none of ours


def _names():
    with tempfile.TemporaryDirectory() as folder:
        return sorted(bad_files(Path(folder)))


@pytest.mark.parametrize("name", _names())
def test_a_file_that_is_no_log_is_refused_with_what_it_is(tmp_path, name):
    sentence = bad_files(tmp_path)[name]
    with pytest.raises(UserError, match=sentence) as refused:
        read_run(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "\n" not in str(refused.value)


BYTES_READ = """
import sys
from pathlib import Path
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import console, table, tensorboard
from xtts_gatekeeper.record.sources import read_run

def so_far():
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

before = so_far()
try:
    read_run(sys.argv[1])
except UserError as error:
    print(so_far() - before, error)
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
@pytest.mark.parametrize(
    ("begin", "sentence"), [(b"PK\x03\x04", "a checkpoint"), (b"\x80\x02", "old pickle"), (b"", "binary")]
)
def test_a_checkpoint_of_5_gb_is_refused_without_reading_it(tmp_path, begin, sentence):
    path = tmp_path / "best_model.pth"
    path.write_bytes(begin)
    os.truncate(path, 5_000_000_000)
    done = subprocess.run(
        [sys.executable, "-c", BYTES_READ, path], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    read, _, told = done.stdout.partition(" ")
    assert sentence in told
    assert int(read) < 1_000_000


@pytest.mark.parametrize("name", ["run.log", "events.out.tfevents.1", "t.csv", "t.md", "journal.jsonl"])
def test_whatever_the_bytes_of_a_file_nothing_but_a_sentence_comes_of_it(tmp_path, name):
    pieces = st.sampled_from(
        [
            console_epoch(0, 3.0).encode(),
            EVENTS_BEGIN,
            events_epoch(0, 3.0),
            table_text(3.0, 2.0).encode(),
            b"| Epoch | Val loss |\n|---|---|\n| 1 | 2 |\n",
            b'{"type": "evaluation", "step": 1, "epoch": 0, "metrics": {"eval.loss": 1}}\n',
            b'{"type": "evaluation", "step": 1, "epoch": 0, "metrics": [',
            b'{"type": "start", "step": null, "epoch": {}}\n',
            b'{"type": "start", "metrics": 1' + b"0" * 400 + b"}\n",
            b"[" * 60_000,
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\r",
            b"\n",
            b"\0",
        ]
    )
    path = tmp_path / name

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.binary(max_size=300), st.lists(pieces | st.binary(max_size=20), max_size=8).map(b"".join)))
    def check(data):
        path.write_bytes(data)
        try:
            for record in read_runs(find_input(path)):
                evaluate(record, load_policy())
        except UserError as error:
            assert str(path) in str(error)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(
    st.sampled_from([*curve(3.0), start(), saved(10), judged(evaluated(0), "tune"), ended(9)]),
    st.data(),
)
def test_a_journal_line_with_a_value_of_another_kind_is_no_traceback(tmp_path, event, data):
    line = event.to_dict()
    key = data.draw(st.sampled_from([key for key in line if key in ("step", "epoch", "metrics", "previous")]))
    line[key] = data.draw(JSON)
    path = tmp_path / "journal.jsonl"
    lines = [*(event.to_dict() for event in [start(), *curve(3.0)]), line]
    path.write_bytes(b"".join(to_json(line).encode(errors="replace") + b"\n" for line in lines))
    record = read_run(path)
    evaluate(record, load_policy())
    assert said([record_of(*record.events[:3])]) == said([record_of(start(), curve(3.0))])


# Encodings


LOG = console_log(*FALLING)


@pytest.mark.parametrize(
    "data",
    [
        LOG.encode(),
        LOG.encode("utf-8-sig"),
        LOG.encode("utf-16-le"),
        LOG.encode("utf-16"),
        b"\xfe\xff" + LOG.encode("utf-16-be"),
        LOG.replace("\n", "\r\n").encode(),
        LOG.replace("\n", "\r\n").encode("utf-16"),
        LOG.replace("\n", "\r").encode(),
        console_epoch(0, FALLING[0]).encode() + console_log(*FALLING[1:], first=1).encode("utf-16"),
        console_epoch(0, FALLING[0]).encode() + console_log(*FALLING[1:], first=1).encode("utf-16-le"),
        b"\xff" + LOG.encode(),
    ],
    ids=[
        "utf-8", "utf-8-bom", "utf-16-without-bom", "utf-16-le", "utf-16-be", "crlf", "powershell", "cr",
        "utf-16-appended", "utf-16-appended-without-bom", "a byte of no encoding",
    ],
)  # fmt: skip
def test_a_console_log_is_read_in_every_encoding_it_is_found_in(tmp_path, data):
    path = tmp_path / "run.log"
    path.write_bytes(data)
    (record,) = read_runs(find_input(path))
    assert mels(record) == list(FALLING)
    assert (record.source, record.name) == ("console", "a")
    assert [e.step for e in record.evaluations] == [10, 20, 30]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1250"])
@pytest.mark.parametrize("text", [table_text(*FALLING), table_text(*FALLING).replace(",", ";").replace("\n", "\r\n")])
def test_a_table_is_read_in_every_encoding_it_is_found_in(tmp_path, text, encoding):
    path = tmp_path / "no-suffix"
    path.write_bytes(text.encode(encoding))
    assert mels(read_run(path)) == list(FALLING)
    assert read_run(path).source == "table"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1250", "utf-16"])
def test_a_run_folder_with_letters_of_central_europe_keeps_its_name(tmp_path, encoding):
    path = tmp_path / "run.log"
    path.write_bytes(console_log(*FALLING, folder="C:\\głosy\\źródło").replace("/checkp", "\\checkp").encode(encoding))
    assert read_run(path).name == "źródło"
    assert mels(read_run(path)) == list(FALLING)


@given(st.text(max_size=40), st.lists(st.integers(0, 90), max_size=6), st.sampled_from(["utf-16", "utf-16-be"]))
def test_utf_16_is_decoded_the_same_wherever_a_chunk_ends(text, cuts, encoding):
    text = text.replace("\0", "").encode("utf-8", "ignore").decode()
    data = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    cuts = sorted({0, 2, *(2 + cut for cut in cuts), len(data)})
    decoder = Decoder()
    assert b"".join(decoder.decode(data[a:b]) for a, b in pairwise(cuts)).decode() == text


# Folders


def test_a_run_folder_gives_journal_then_console_log_then_events_then_tables(tmp_path):
    for kind in KINDS:
        write_kind(tmp_path, kind, *FALLING)
    (tmp_path / "nohup.log").write_text("installing packages\n")
    (tmp_path / "trainer_1_log.txt").write_text(console_log(9.0, 9.1))  # of another rank
    for kind, gone in zip(KINDS, ["gatekeeper/journal.jsonl", "trainer_?_log.txt", "*tfevents*", "none"], strict=True):
        found = find_input(tmp_path)
        assert (found.kind, found.folder) == (kind, tmp_path)
        assert read_run(tmp_path).source == kind
        assert mels(read_run(tmp_path)) == list(FALLING)
        for path in tmp_path.glob(gone):
            path.unlink()


def test_a_stock_run_folder_with_log_and_events_is_judged_by_its_log(tmp_path):
    write_kind(tmp_path, "console", 3.0, 2.5)
    write_kind(tmp_path, "tensorboard", 9.0, 8.0, 7.0)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "best_model_20.pth").write_bytes(b"PK\x03\x04")
    assert read_run(tmp_path).source == "console"
    assert mels(read_run(tmp_path)) == [3.0, 2.5]


def test_a_log_that_holds_no_training_does_not_hide_the_events_beside_it(tmp_path):
    write_kind(tmp_path, "tensorboard", *FALLING)
    (tmp_path / "pip.log").write_text("Collecting torch\n")
    assert read_run(tmp_path).source == "tensorboard"


def test_folders_and_dangling_links_with_the_names_of_logs_are_passed_over(tmp_path):
    write_kind(tmp_path, "tensorboard", *FALLING)
    for name in ("a.log", "b.csv", "trainer_0_log.txt"):
        (tmp_path / name).mkdir()
    for name in ("c.log", "d.md", "e.txt"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert read_run(tmp_path).source == "tensorboard"


@pytest.mark.parametrize("name", ["train.log", "pasted.txt", "table.md", "table.tsv"])
def test_a_folder_with_one_log_or_table_of_any_name_is_a_run(tmp_path, name):
    text = {"md": "| Epoch | Val loss |\n|--|--|\n| 1 | 3.0 |\n", "tsv": "epoch\tval_loss\n1\t3.0\n"}
    (tmp_path / name).write_text(text.get(name.rpartition(".")[2], console_log(3.0)))
    (tmp_path / "notes.txt").write_text("nothing of a training\n")
    (tmp_path / "README.md").write_text("# A run\n\n| Host | Disk |\n|--|--|\n| a | 5 |\n")
    assert mels(read_run(tmp_path)) == [3.0]


def test_event_files_of_one_folder_are_one_run(tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(events_file(3.0, 2.6))
    (tmp_path / "events.out.tfevents.2").write_bytes(events_file(2.3, first=2))
    assert mels(read_run(tmp_path)) == list(FALLING)


def test_a_journal_copied_out_of_its_run_is_still_the_journal(tmp_path):
    write_run(tmp_path / "run", start(), curve(*FALLING))
    for name in ("copy/journal.jsonl", "elsewhere/my-run.txt"):
        copied = tmp_path / name
        copied.parent.mkdir()
        shutil.copy(journal_path(tmp_path / "run"), copied)
        write_kind(copied.parent, "console", 9.0)
        assert read_run(copied).source == "journal"
        assert mels(read_run(copied)) == list(FALLING)
    assert read_run(tmp_path / "copy").source == "journal"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_holds_just_one_run_means_that_run(tmp_path, kind):
    write_kind(tmp_path / "run-a", kind, *FALLING)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/notes.txt").write_text("nothing\n")
    assert mels(read_run(tmp_path)) == list(FALLING)
    assert find_run(tmp_path) == tmp_path / "run-a"


def test_several_runs_are_named_whatever_they_were_written_by(tmp_path):
    for kind in KINDS:
        write_kind(tmp_path / f"by-{kind}", kind, *FALLING)
    (tmp_path / "unclear").mkdir()
    for name in ("a.log", "b.log"):
        (tmp_path / "unclear" / name).write_text(console_log(3.0))
    sentence = "5 runs; name one of them: by-console, by-journal, by-table, by-tensorboard, unclear"
    with pytest.raises(UserError, match=sentence):
        find_input(tmp_path)


def test_a_folder_with_several_logs_names_them(tmp_path):
    for name in ("first.log", "second.log"):
        (tmp_path / name).write_text(console_log(3.0))
    with pytest.raises(UserError, match=r"holds 2 logs or tables; name one of them: first\.log, second\.log"):
        find_input(tmp_path)
    with pytest.raises(UserError, match=r"first\.log, second\.log"):
        find_input(tmp_path.parent if len(list(tmp_path.parent.iterdir())) == 1 else tmp_path)


def test_a_log_alone_is_read_but_is_no_run_folder(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(console_log(*FALLING))
    assert find_input(path).folder is None
    with pytest.raises(UserError, match="is not a run folder"):
        find_run(path)


# Too little is still a run


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.log", console_log(3.0).partition("\n\x1b[1m > EVALUATION")[0].encode()),
        ("run.log", b"\n > EPOCH: 0/30\n --> /runs/a\n"),
        ("run.log", b" > Training Environment:\n | > Precision: float32\n"),
        ("events.out.tfevents.1", EVENTS_BEGIN),
        ("events.out.tfevents.1", EVENTS_BEGIN + scalar("TrainIterStats/loss", 3.0, 1)),
        ("events.out.tfevents.1", EVENTS_BEGIN + scalar("weights/norm", 3.0, 1)[:-3]),
        ("t.csv", b"epoch,val_loss\n"),
        ("t.md", b"| Epoch | Val loss |\n|---|---|\n|  |  |\n"),
    ],
)
def test_a_run_that_has_not_evaluated_yet_has_a_record_and_no_evaluation(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    record = read_run(tmp_path / name)
    assert record.evaluations == ()
    assert evaluate(record, load_policy()).verdict == "undecided"


@pytest.mark.parametrize("left_out", [1, 9, 40])
def test_a_truncated_event_file_is_judged_up_to_there_and_says_so(tmp_path, left_out):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(events_file(*FALLING)[:-left_out])
    record = read_run(path)
    assert mels(record)[:2] == list(FALLING[:2])
    assert "truncated_events" in {note.code for note in record.notes}


# Which run, and which moment of it


@pytest.fixture
def two_runs(tmp_path):
    path = tmp_path / "both.log"
    path.write_text(console_log(5.0, 4.5, folder="/runs/first") + console_log(*FALLING, folder="/runs/second"))
    return path


@pytest.mark.parametrize(("name", "first"), [(None, 3.0), ("first", 5.0), ("second", 3.0), ("1", 5.0), ("2", 3.0)])
def test_a_run_in_a_log_of_several_is_chosen_by_name_or_number_and_is_the_last_otherwise(two_runs, name, first):
    assert mels(read_run(two_runs, name))[0] == first


def test_a_run_folder_means_its_own_run_though_a_later_one_wrote_into_its_log(tmp_path):
    folder = tmp_path / "first"
    write_kind(folder, "console", 9.0).write_text(
        console_log(5.0, 4.5, folder="/runs/first") + console_log(*FALLING, folder="/runs/second")
    )
    assert read_run(folder).name == "first"
    assert read_run(folder, "2").name == "second"
    assert next(offline.watch(folder))["run"] == "first"


@pytest.mark.parametrize("name", ["third", "0", "3", "", "-1"])
def test_a_run_that_is_not_there_is_refused_with_those_that_are(two_runs, name):
    with pytest.raises(UserError, match="it has first, second"):
        read_run(two_runs, name)


def test_runs_without_a_name_have_numbers():
    unnamed = [record_of(curve(3.0)), record_of(curve(2.0))]
    assert choose_run(unnamed, "1", Path("t.csv")) is unnamed[0]
    with pytest.raises(UserError, match=r"t\.csv has no run 'x'; it has 1, 2"):
        choose_run(unnamed, "x", Path("t.csv"))


@pytest.mark.parametrize("kind", KINDS)
def test_epoch_n_and_step_n_mean_the_same_in_every_source(tmp_path, kind):
    record = read_run(write_kind(tmp_path, kind, *FALLING))
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 3]
    assert evaluation_at(record, "epoch:2") == evaluation_at(record, "step:29") == record.evaluations[1]


def test_a_number_too_long_for_a_step_is_refused():
    with pytest.raises(UserError, match="neither epoch:N nor step:N"):
        evaluation_at(record_of(curve(2.0)), "epoch:" + "9" * 5000)


def test_metrics_of_a_policy_reach_the_reader(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("epoch,val_loss,Voice\n1,3,0.9\n2,2,0.8\n")
    record = read_run(path, metrics={"eval.likeness": "voice"})
    assert [e.metrics["eval.likeness"] for e in record.evaluations] == [0.9, 0.8]


# Following what grows


def whole(path):
    """The records after reading all that is there now, with what is still open left open."""
    source = find_input(path)
    if source.kind == "journal":
        return read_runs(source)
    parser = parser_for(source.kind)
    decoder = Decoder()
    for file in source.files:
        data = file.read_bytes()
        parser.feed(data if source.kind == "tensorboard" else decoder.decode(data))
    return parser.records() or [RunRecord((), source.kind)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.log", console_log(3.0, math.nan, 2.0).encode()),
        ("run.log", console_log(*FALLING).replace("\n", "\r\n").encode("utf-16")),
        ("run.log", console_epoch(0, 3.0).encode() + console_log(2.6, 2.3, first=1).encode("utf-16-le")),
        ("run.log", (console_log(3.0, 2.0) + console_log(2.5, 2.4, folder="/runs/b")).encode()),
        ("events.out.tfevents.1", events_file(3.0, 2.0) + events_file(1.5, first=2)),
        ("t.csv", table_text(*FALLING).encode("utf-8-sig")),
        ("t.md", b"# Report\n\n| Epoch | Val mel |\n|---|---|\n| 1 | 3 |\n| 2 | 2.5 |\n\nand so on\n"),
    ],
    ids=["console", "utf-16", "utf-16-appended", "two-runs", "events", "csv", "markdown"],
)
def test_a_follower_has_at_every_moment_what_reading_the_whole_gives(tmp_path, name, data):
    path = tmp_path / name
    kind_is_events = name[:3] == "eve"
    least = len(EVENTS_BEGIN) if kind_is_events else data.index(b"\n", 40)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(least, len(data)), max_size=12))
    def check(cuts):
        path.write_bytes(data[:least])
        follower = Follower(path)
        for begin, end in zip([least, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            follower.poll()
            with path.open("ab") as file:
                file.write(data[begin:end])
            # An event file that has ceased to grow is settled: then its last evaluation counts, too.
            settled = said(read_runs(find_input(path))) if kind_is_events and begin == end else None
            assert said(follower.poll()) in (said(whole(path)), settled)
        follower.poll()
        assert said(follower.poll()) == said(read_runs(find_input(path)) if kind_is_events else whole(path))
        assert follower.poll()[-1].evaluations

    check()


@pytest.mark.parametrize("cut", [3, 4, 121, 122])
def test_a_follower_decodes_utf_16_on_from_where_it_was(tmp_path, cut):
    data = console_log(*FALLING, folder="/głosy/źródło").encode("utf-16")
    path = tmp_path / "run.log"
    path.write_bytes(data[:cut])
    follower = Follower(path)
    follower.poll()
    with path.open("ab") as file:
        file.write(data[cut:])
    (record,) = follower.poll()
    assert (record.name, mels(record)) == ("źródło", list(FALLING))


def test_a_follower_of_a_journal_sees_every_event_at_once(tmp_path):
    folder = write_run(tmp_path, start())
    follower = Follower(folder)
    journal = Journal(journal_path(folder))
    for event in [*curve(3.0, float("nan")), ended(20)]:
        journal.append(event)
        (record,) = follower.poll()
        assert repr(record.events[-1]) == repr(event)
    with journal.path.open("ab") as file:
        file.write(b'{"type": "evalu')
    assert follower.poll()[0].incidents[-1].code == "journal_line_unreadable"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mels_after", [(9.0,), (9.0, 8.0, 7.0, 6.0, 5.0)], ids=["shorter", "longer"])
def test_a_follower_reads_a_file_that_was_replaced_anew(tmp_path, kind, mels_after):
    path = write_kind(tmp_path / "run", kind, *FALLING)
    follower = Follower(path)
    follower.poll()
    other = write_kind(tmp_path / "other", kind, *mels_after)
    if kind == "console":
        other.write_text(console_log(*mels_after, folder="/data/runs/b"))
    elif kind == "tensorboard":
        other.write_bytes(other.read_bytes().replace(EVENTS_BEGIN, _framed(EVENTS_BEGIN[12:-4] + b"\x42\x00")))
    elif kind == "table":
        other.write_text(other.read_text().replace("val_loss", "val_mel"))
    else:
        path, other = journal_path(path), journal_path(other)
    other.replace(path)
    assert said(follower.poll()) == said(whole(path))
    assert len(follower.poll()[-1].evaluations) in (len(mels_after), len(mels_after) - 1)


def test_a_follower_of_a_folder_goes_on_with_the_next_event_file_and_with_a_better_source(tmp_path):
    first = tmp_path / "events.out.tfevents.1"
    first.write_bytes(events_file(3.0, 2.6))
    follower = Follower(tmp_path)
    assert mels(follower.poll()[0]) == [3.0]
    (tmp_path / "events.out.tfevents.2").write_bytes(events_file(2.3, first=2) + scalar("TrainIterStats/loss", 2.0, 33))
    assert mels(follower.poll()[0]) == list(FALLING)
    write_run(tmp_path, start(), curve(5.0))
    assert follower.poll()[0].source == "journal"


def test_a_follower_of_an_event_file_that_grows_before_the_last_one_reads_them_in_order(tmp_path):
    first, second = (tmp_path / f"events.out.tfevents.{n}" for n in (1, 2))
    first.write_bytes(events_file(3.0))
    second.write_bytes(events_file(2.0, first=2))
    follower = Follower(tmp_path)
    follower.poll()
    with first.open("ab") as file:
        file.write(events_epoch(1, 2.6))
    assert said(follower.poll()) == said(whole(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_follower_says_that_the_file_is_gone(tmp_path, kind):
    path = write_kind(tmp_path / "run", kind, *FALLING)
    follower = Follower(path)
    follower.poll()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        follower.poll()


# Memory


MEMORY = """
import sys
from pathlib import Path
from xtts_gatekeeper.record.sources import find_input, read_runs

records = read_runs(find_input(Path(sys.argv[1])))
status = Path("/proc/self/status").read_text()  # getrusage inherits the peak of the process that forked this one
print(len(records[0].evaluations), status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_console_log_of_40_mb_takes_less_than_150_mb_of_memory(tmp_path, encoding):
    path = tmp_path / "trainer_0_log.txt"
    epochs, steps = 22, 10_000
    with path.open("wb") as file:
        for number in range(epochs):
            text = console_epoch(number, 3 - number / 20, steps)
            head, _, rest = text.partition("\n\x1b[1m   --> STEP")
            block, _, evaluation = rest.partition("\n\x1b[1m > EVALUATION")
            body = block.partition("\n")[2]
            logged = (
                f"\n\x1b[1m   --> STEP: {s}/{steps} -- GLOBAL_STEP: {number * steps + s}\x1b[0m\n{body}"
                for s in range(0, steps, 1 if encoding == "utf-8" else 2)
            )
            file.write((head + "".join(logged) + "\n\x1b[1m > EVALUATION" + evaluation).encode(encoding))
    assert path.stat().st_size > 40_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    evaluations, kilobytes = map(int, done.stdout.split())
    assert evaluations == epochs
    assert kilobytes < 150_000


# Live and offline


def _written_live(path, policy, events):
    """The journal as the plug-in writes it: after every evaluation the verdict on what was written by then."""
    journal = Journal(path)
    for event in events:
        journal.append(event)
        if event.type == "evaluation":
            journal.append(judged(event, evaluate(record_of(journal.events), policy).verdict))
    return journal


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([3.0, 2.9, 2.5, 3.1, 3.3, 9.0, math.nan]), min_size=1, max_size=14), st.data())
def test_the_verdicts_of_the_live_gate_are_those_of_a_replay(tmp_path, values, data):
    policy = load_policy()
    cut = data.draw(st.integers(0, len(values)))
    back = data.draw(st.integers(0, cut))  # a resume from an earlier epoch, whose stretch is abandoned
    events = [start(), *curve(*values[:cut])]
    if back:
        events += [saved(10 * back), start(step=10 * back, epoch=back), *curve(*values[cut:], first=back)]
    else:
        events += curve(*values[cut:], first=cut)
    path = journal_path(tmp_path)
    path.unlink(missing_ok=True)
    _written_live(path, policy, events)

    record = read_run(tmp_path)
    rows = replay(record, policy)["rows"]
    verdicts = {}
    for before, event in pairwise(record.events):
        if event.type == "verdict":
            verdicts[id(before)] = event.verdict
    assert [row["verdict"] for row in rows] == [verdicts[id(e)] for e in record.evaluations]
    assert [row["step"] for row in rows] == [e.step for e in record.evaluations]


def test_an_epoch_without_a_verdict_is_replayed_all_the_same(tmp_path):
    record = read_run(write_run(tmp_path, start(), curve(*FALLING), trained(3)))
    assert [row["verdict"] for row in replay(record, load_policy())["rows"]] == ["undecided", "undecided", "continue"]
