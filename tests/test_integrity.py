import io
import os
import random
import struct
import threading
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.checkpoints.integrity import Scan, damage, scan
from xtts_gatekeeper.checkpoints.zip_layout import SharedFile


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a small checkpoint as the Trainer writes it."""
    torch = pytest.importorskip("torch")
    save_model = pytest.importorskip("trainer.io").save_model
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 16).half())
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    path = tmp_path_factory.mktemp("torch") / "checkpoint_5.pth"
    config = {"model": "xtts", "lr": 5e-6, "betas": [0.9, 0.96], "audio": {"sample_rate": 22050}}
    save_model(config, model, path, current_step=5, epoch=1, optimizer=[optimizer], model_loss={"train_loss": 1.5})
    return path.read_bytes()


@pytest.fixture
def look(tmp_path):
    """Scan some bytes as a file."""
    path = tmp_path / "a.pth"

    def scan_bytes(data, threads=1):
        path.write_bytes(data)
        return scan(path, threads)

    return scan_bytes


def flipped(data, place, bit):
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def archive(records, **options):
    """A zip archive in which zipfile wrote these records."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as file:
        for name, content in records.items():
            file.writestr(name, content)
    return data.getvalue()


RECORDS = {"archive/data.pkl": b"pickle", "archive/data/0": bytes(range(256)) * 8, "archive/data/1": b""}


# Whole files


def test_a_checkpoint_of_the_trainer_is_whole_and_every_number_of_threads_says_the_same(look, checkpoint):
    found = look(checkpoint)
    assert found == Scan(len(checkpoint), found.digest, None)
    assert found.digest.startswith("zip:")
    assert len(found.digest) == len("zip:") + 64
    assert look(checkpoint, threads=4) == found


def test_two_files_of_the_same_tensors_and_different_pickles_have_different_digests(look):
    digests = {look(archive({**RECORDS, "archive/data.pkl": text})).digest for text in (b"pickle", b"pickl3", b"p")}
    assert len(digests) == 3


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_whole_and_every_flipped_bit_of_it_is_found(look, tmp_path, method):
    data = archive(RECORDS, compression=method)
    whole = look(data)
    assert whole.problem is None
    for place in range(len(data)):
        changed = look(flipped(data, place, place % 8))
        assert changed.problem or changed.digest != whole.digest, place


class Unseekable(io.BytesIO):
    """What makes zipfile write data descriptors."""

    def seekable(self):
        return False

    def tell(self):
        raise OSError

    def seek(self, *_):
        raise OSError


@pytest.mark.parametrize("stream", [io.BytesIO, Unseekable])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip64_headers_of_zipfile_are_read(look, stream, method):
    data = stream()
    with zipfile.ZipFile(data, "w", method) as file:
        for name, content in RECORDS.items():
            with file.open(name, "w", force_zip64=True) as record:
                record.write(content)
    assert look(data.getvalue()).problem is None
    assert look(data.getvalue()[:-1]).problem


ZEROS = 0xD202EF8D  # the CRC-32 of 4 GiB of zeros


def beyond_4_gib(path):
    """A sparse file with a record of 4 GiB of zeros, as torch lays it out, and one more behind that."""
    large, small = 1 << 32, b"the last tensor"
    entries = []
    with path.open("wb") as file:
        for name, content, size, of in (
            (b"a/data.pkl", b"pickle", 6, zlib.crc32(b"pickle")),
            (b"a/data/0", None, large, ZEROS),
            (b"a/data/1", small, len(small), zlib.crc32(small)),
        ):
            offset = file.tell()
            long = [value for value in (size, size, offset) if value >= 1 << 32]
            extra = struct.pack(f"<HH{len(long)}Q", 1, 8 * len(long), *long) if long else b""
            file.write(
                struct.pack("<4s5H3L2H", b"PK\3\4", 0, 8, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra
            )
            file.write(content) if content is not None else file.seek(size, os.SEEK_CUR)
            file.write(struct.pack("<4sLQQ" if long else "<4sLLL", b"PK\7\x08", of, size, size))
            short = [min(value, 0xFFFFFFFF) for value in (size, size, offset)]
            rest = (len(name), len(extra), 0, 0, 0, 0, short[2])
            entries.append(
                struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, 0, 8, 0, 0, 0, of, *short[:2], *rest) + name + extra
            )
        begin = file.tell()
        directory = b"".join(entries)
        end = begin + len(directory)
        file.write(directory + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(directory), begin))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(directory), 0xFFFFFFFF, 0))


@pytest.mark.skipif(os.name == "nt", reason="sparse files")
def test_a_file_beyond_4_gib_is_read_and_only_the_flipped_bit_behind_that_is_found(tmp_path, monkeypatch):
    path = tmp_path / "large.pth"
    beyond_4_gib(path)
    read = SharedFile.crc
    # Reading 4 GiB of zeros would take most of this file's time.
    monkeypatch.setattr(
        SharedFile, "crc", lambda self, at, size, to: ZEROS if size == 1 << 32 else read(self, at, size, to)
    )
    with path.open("r+b") as file:
        file.seek(-600, os.SEEK_END)
        place = file.tell() + file.read().index(b"last")
        file.seek(place)
        file.write(b"m")
    assert scan(path, 2).problem == "the CRC of a/data/1 does not hold"


# Damage


def test_every_flipped_bit_is_found_with_the_digest(look, tmp_path, checkpoint):
    whole = look(checkpoint)
    rng = random.Random(0)
    for _ in range(1500):
        place, bit = rng.randrange(len(checkpoint)), rng.randrange(8)
        changed = look(flipped(checkpoint, place, bit))
        assert changed.problem or changed.digest != whole.digest, (place, bit)
        assert damage(tmp_path / "a.pth", digest=whole.digest), (place, bit)


def test_without_the_digest_only_the_versions_in_the_zip64_end_record_are_unprotected(look, checkpoint):
    versions = checkpoint.rindex(b"PK\6\6") + 12
    directory = checkpoint.index(b"PK\1\2")
    rng = random.Random(1)
    places = {*rng.sample(range(directory), 200), *rng.sample(range(directory, len(checkpoint)), 200)}
    places |= {*range(versions - 12, len(checkpoint))}
    passed = {
        (place, bit) for place in places for bit in range(8) if look(flipped(checkpoint, place, bit)).problem is None
    }
    assert passed == {(place, bit) for place in range(versions, versions + 4) for bit in range(8)}
    assert 1 - len(passed) / (8 * len(checkpoint)) > 0.999


def test_a_flipped_bit_in_any_header_of_any_record_is_found_without_the_digest(look, checkpoint):
    at = 0
    headers = []
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as file:
        for info in file.infolist():
            headers += [*range(at, info.header_offset), *range(info.header_offset, info.header_offset + 60)]
            name, extra = struct.unpack_from("<HH", checkpoint, info.header_offset + 26)
            at = info.header_offset + 30 + name + extra + info.file_size
    for place in headers[::3]:
        assert look(flipped(checkpoint, place, place % 8)).problem, place


def test_a_cut_file_is_found_wherever_it_is_cut(look, checkpoint):
    for size in range(0, len(checkpoint), 7):
        assert look(checkpoint[:size]).problem, size


def test_a_file_with_something_before_or_behind_it_is_found(look, checkpoint):
    for data in (b"\0" + checkpoint, checkpoint + b"\0", checkpoint + checkpoint, checkpoint[:-22] + checkpoint):
        assert look(data).problem


def test_a_stretch_that_a_disk_lost_is_found_and_the_records_in_it_are_counted(look):
    data = archive({"a/data.pkl": b"pickle", **{f"a/data/{i}": bytes([i + 1]) * 100 for i in range(10)}})
    lost = data
    for i in (3, 4, 5):
        lost = lost.replace(bytes([i + 1]) * 100, bytes(100))
    assert look(lost).problem == "the CRC of a/data/3 does not hold, nor those of 2 more records"


def test_bytes_that_two_threads_check_are_named_as_one_thread_names_them(look):
    content = {f"a/data/{i}": os.urandom(1000) + bytes(6_000_000 * (i + 1)) for i in range(5)}
    data = archive({"a/data.pkl": b"pickle", **content})
    assert look(data, 2).problem is None
    for name in ("a/data/4", "a/data/0"):
        data = data.replace(content[name][:1000], bytes(1000))
        assert look(data, 1) == look(data, 2)
        assert name in look(data, 2).problem


def test_a_digest_that_differs_is_said_though_the_checksums_hold(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(archive(RECORDS))
    digest = scan(path).digest
    assert damage(path, digest=digest) is None
    path.write_bytes(archive({**RECORDS, "archive/data/0": b"another tensor"}))
    assert damage(path) is None
    assert "not the file that was written" in damage(path, digest=digest)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"archive/readme": b"x"}, "no data.pkl"),
        ({"a/data.pkl": b"one", "b/data.pkl": b"two"}, "several records of one name"),
    ],
)
def test_an_archive_that_torch_did_not_write_is_damaged(look, records, said):
    assert said in look(archive(records)).problem


@pytest.mark.parametrize("name", ["missing.pth", ".", "a\0.pth", "x" * 300])
def test_a_missing_file_and_a_folder_are_damaged(tmp_path, name):
    assert damage(tmp_path / name)
    assert damage(tmp_path / name, legacy=True)
    assert damage(tmp_path / name, digest="zip:0")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_damaged_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    assert damage(tmp_path / "a.pth", legacy=True) == "it is no regular file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable for root")
def test_a_file_that_may_not_be_read_is_damaged(tmp_path):
    (tmp_path / "a.pth").write_bytes(archive(RECORDS))
    (tmp_path / "a.pth").chmod(0)
    assert "it cannot be read" in damage(tmp_path / "a.pth")


def test_a_file_in_the_format_before_torch_1_6_passes_only_when_asked_for_and_never_a_digest(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02}q\x00.")
    assert damage(tmp_path / "a.pth")
    assert damage(tmp_path / "a.pth", legacy=True) is None
    assert damage(tmp_path / "a.pth", legacy=True, digest="zip:0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_at_all_end_in_an_exception(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    for content in (data, b"PK\3\4" + data, archive(RECORDS)[:-22] + data, data + archive(RECORDS)[-22:]):
        path.write_bytes(content)
        said = damage(path)
        assert said is None or ("\n" not in said and said == said.strip())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12))
def test_no_overwritten_bytes_end_in_an_exception_and_none_pass_the_digest(tmp_path_factory, checkpoint, changes):
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    path.write_bytes(checkpoint)
    digest = scan(path).digest
    changed = bytearray(checkpoint)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    path.write_bytes(changed)
    assert (damage(path, digest=digest) is None) == (changed == checkpoint)


def test_a_record_with_a_line_break_in_its_name_is_named_on_one_line(look):
    data = archive({"a/data.pkl": b"pickle", "a/x\ny": b"tensor"}).replace(b"tensor", b"tensar")
    assert look(data).problem == "the CRC of 'a/x\\ny' does not hold"


def test_a_file_that_shrinks_while_it_is_read_is_damaged_and_kills_nobody(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a/data.pkl": b"pickle", "a/data/0": bytes(60_000_000)}))
    cut = threading.Timer(0.005, os.truncate, (path, 5000))
    cut.start()
    found = scan(path, 2)
    cut.join()
    # Whether the cut came in time is the machine's business, what is said of it is not.
    assert found.problem is None or "shorter" in found.problem or "the file has 5000" in found.problem
    assert damage(path)
