"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A file is a row of frames: length (u64), masked CRC-32C of the length (u32), payload, masked CRC-32C of the payload
(u32), all little-endian. Source: TensorFlow's core/lib/io/record_writer.h and core/example/{example,feature}.proto.
"""

import functools
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from training.data.records import DatasetError

Feature = list[bytes] | list[int] | list[float]

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_REMEDY = "Copy or download this file again"


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of `data`, rotated and offset as TFRecord stores it (TensorFlow's crc32c::Mask)."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return one record in the format of a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return length + _FOOTER.pack(masked_crc(length)) + payload + _FOOTER.pack(masked_crc(payload))


def read(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of one file as (offset of the payload in bytes, payload), both checksums verified.

    One record is held at a time.

    Raises:
        DatasetError: the file is missing, compressed, not a TFRecord file, ends early, or a checksum is wrong.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            number = 0
            while file.tell() < size:
                number += 1
                yield _read_one(file, path, number, size)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}. {_REMEDY}, or fix its permissions") from error


def _read_one(file: BinaryIO, path: Path, number: int, size: int) -> tuple[int, bytes]:
    start = file.tell()
    where = f"{path}: record {number} at byte {start}"
    header = file.read(_HEADER.size)
    if header[:2] == b"\x1f\x8b" and number == 1:
        raise DatasetError(f"{path} is compressed. Unpack it first with gzip -d")
    if len(header) < _HEADER.size:
        raise DatasetError(f"{where} is truncated: {len(header)} of its 12 header bytes are present. {_REMEDY}")
    length, length_crc = _HEADER.unpack(header)
    if masked_crc(header[:8]) != length_crc:
        if number == 1:
            raise DatasetError(f"{path} is not a TFRecord file, or damaged: its first checksum is wrong. {_REMEDY}")
        raise DatasetError(f"{where} is damaged: the checksum of its length is wrong. {_REMEDY}")
    offset = file.tell()
    if offset + length + _FOOTER.size > size:
        missing = offset + length + _FOOTER.size - size
        raise DatasetError(f"{where} is truncated: the last {missing} of its {length} bytes are missing. {_REMEDY}")
    payload = file.read(length)
    if masked_crc(payload) != _FOOTER.unpack(file.read(_FOOTER.size))[0]:
        raise DatasetError(f"{where} is damaged: the checksum of its data is wrong. {_REMEDY}")
    return offset, payload


def write(path: Path, payloads: Iterable[bytes]) -> int:
    """Write records to a file and return how many; equal payloads give an equal file, byte for byte."""
    count = 0
    with open(path, "wb") as file:
        for payload in payloads:
            file.write(frame(payload))
            count += 1
    return count


def features(payload: bytes) -> dict[str, Feature]:
    """Return the features of an encoded `tf.train.Example`: a list of bytes, int or float under each key.

    Raises:
        ValueError: the payload is not an Example.
    """
    try:
        message = _example().FromString(payload)
    except DecodeError as error:
        raise ValueError("not an encoded tf.train.Example") from error
    features_by_name: dict[str, Feature] = {}
    for entry in message.features.feature:
        value = entry.value
        features_by_name[entry.key] = list(value.bytes_list.value or value.int64_list.value or value.float_list.value)
    return features_by_name


def example(values: Mapping[str, bytes | int | float | Feature]) -> bytes:
    """Return an encoded `tf.train.Example` whose features are in the order of `values`."""
    message = _example()()
    for key, value in values.items():
        entry = message.features.feature.add(key=key)
        items = value if isinstance(value, list) else [value]
        kind = type(items[0]) if items else bytes
        lists = {bytes: entry.value.bytes_list, int: entry.value.int64_list, float: entry.value.float_list}
        lists[kind].value.extend(items)
        lists[kind].SetInParent()
    encoded: bytes = message.SerializeToString()
    return encoded


@functools.cache
def _example() -> Any:
    """Build the message classes at run time, in a private pool, so that they never clash with TensorFlow's.

    `map<string, Feature>` is spelled as the repeated key-value entry that it is on the wire, which also keeps order.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="example", syntax="proto3")
    layout: dict[str, list[tuple[str, int, str, bool]]] = {
        "BytesList": [("value", field.TYPE_BYTES, "", True)],
        "FloatList": [("value", field.TYPE_FLOAT, "", True)],
        "Int64List": [("value", field.TYPE_INT64, "", True)],
        "Feature": [(f"{k.lower()}_list", field.TYPE_MESSAGE, f"{k}List", False) for k in ("Bytes", "Float", "Int64")],
        "Entry": [("key", field.TYPE_STRING, "", False), ("value", field.TYPE_MESSAGE, "Feature", False)],
        "Features": [("feature", field.TYPE_MESSAGE, "Entry", True)],
        "Example": [("features", field.TYPE_MESSAGE, "Features", False)],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for number, (key, kind, type_name, repeated) in enumerate(fields, start=1):
            message.field.add(
                name=key,
                number=number,
                type=kind,
                type_name=f".example.{type_name}" if type_name else None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("example.Example"))
