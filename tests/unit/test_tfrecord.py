"""TFRecord framing and Example messages, against TensorFlow's published values and against damage of every kind."""

import gzip
import struct
from pathlib import Path

import pytest

from training.data import tfrecord
from training.data.records import DatasetError

PAYLOADS = [b"one", b"", b"three" * 1000]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.tfrec"
    assert tfrecord.write(path, PAYLOADS) == 3
    return path


def test_masked_crc_is_tensorflows() -> None:
    # RFC 3720 B.4: the CRC-32C of 32 zero bytes is 0x8a9136aa; rotated right by 15 and offset as TensorFlow masks it.
    rotated = ((0x8A9136AA >> 15) | (0x8A9136AA << 17)) & 0xFFFFFFFF
    assert tfrecord.masked_crc(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


def test_frame_is_laid_out_as_tensorflow_does() -> None:
    framed = tfrecord.frame(b"abc")
    assert struct.unpack("<Q", framed[:8]) == (3,)
    assert framed[12:15] == b"abc"
    assert len(framed) == 12 + 3 + 4


def test_read_gives_back_what_was_written_with_its_place(file: Path) -> None:
    data = file.read_bytes()
    found = list(tfrecord.read(file))
    assert [payload for _, payload in found] == PAYLOADS
    assert all(data[offset : offset + len(payload)] == payload for offset, payload in found)


@pytest.mark.parametrize("kept", [5, 12, 14, 18, 19 + 3, 19 + 12 + 2, -1, -4, -10])
def test_truncated_anywhere_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=r"some\.tfrec: record \d at byte \d+ is truncated.*again"):
        list(tfrecord.read(file))


@pytest.mark.parametrize(
    ("place", "message"),
    [(0, "not a TFRecord file"), (9, "not a TFRecord file"), (13, "its data"), (16, "its data"), (20, "its length")],
)
def test_one_flipped_bit_is_refused(file: Path, place: int, message: str) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"some\.tfrec.*{message}"):
        list(tfrecord.read(file))


def test_records_before_the_damage_are_read(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    records = tfrecord.read(file)
    assert next(records)[1] == b"one"
    assert next(records)[1] == b""
    with pytest.raises(DatasetError, match="record 3"):
        next(records)


def test_a_compressed_file_says_how_to_unpack_it(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"some\.tfrec is compressed. Unpack"):
        list(tfrecord.read(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.tfrec cannot be read"):
        list(tfrecord.read(tmp_path / "gone.tfrec"))


def test_features_come_back_with_their_types() -> None:
    values: dict[str, tfrecord.Feature] = {"id": [b"a", b"b"], "class": [7, -1], "weight": [0.5]}
    assert tfrecord.features(tfrecord.example(values)) == values


def test_scalars_and_empty_lists_are_features() -> None:
    encoded = tfrecord.example({"class": 0, "id": b"", "none": []})
    assert tfrecord.features(encoded) == {"class": [0], "id": [b""], "none": []}


def test_example_is_what_tensorflow_writes() -> None:
    # tf.train.Example(features=…{"class": Int64List([103])}).SerializeToString(), with packed integers.
    wire = b"\x0a\x10" + b"\x0a\x0e" + b"\x0a\x05class" + b"\x12\x05" + b"\x1a\x03" + b"\x0a\x01\x67"
    assert tfrecord.example({"class": 103}) == wire
    assert tfrecord.features(wire) == {"class": [103]}


def test_features_refuses_what_is_no_example() -> None:
    with pytest.raises(ValueError, match="not an encoded"):
        tfrecord.features(b"\xff\xff\xff")


def test_every_real_record_is_rebuilt_byte_for_byte(real_data: Path | None, file: Path) -> None:
    files = sorted(real_data.rglob("*.tfrec*")) if real_data else [file]
    assert files
    for path in files:
        rebuilt = b"".join(tfrecord.frame(payload) for _, payload in tfrecord.read(path))
        assert rebuilt == path.read_bytes()
        if real_data:
            assert all(tfrecord.example(tfrecord.features(data)) == data for _, data in tfrecord.read(path))
