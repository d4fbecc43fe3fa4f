"""`tf.train.Example`: named lists of bytes, floats or integers, as Protocol Buffers write them.

    message Example  { Features features = 1; }
    message Features { map<string, Feature> feature = 1; }
    message Feature  { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }

Each list has its values in the field 1. This much is read and written here, so that damaged or hostile bytes end in a
`ValueError`, and a machine without TensorFlow has it too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

__all__ = ["MOST_VALUES", "Feature", "decode_example", "encode_example"]

Feature = Sequence[bytes | float]  # of one kind; whole numbers are int

Value = TypeVar("Value")

MOST_VALUES = 1_000_000  # in a list: the raw numbers of 512 × 512 colour pixels are fewer
_MOST_FEATURES = 10_000
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # ways in which a field is written


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Returns an Example as bytes; the names in order, so that equal content gives equal bytes.

    Args:
        features: Each a list of bytes, of floats or of integers; an empty one is written without a kind.
    """
    entries = []
    for name in sorted(features):
        values = features[name]
        if not values:
            feature = b""
        elif isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, value) for value in values))  # type: ignore[arg-type]
        elif isinstance(values[0], float):
            feature = _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values)))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, Feature]:
    """Returns the features of an Example.

    Raises:
        ValueError: The bytes are none.
    """
    features: dict[str, Feature] = {}
    for field, value in _fields(memoryview(data)):
        for inner, entry in _fields(_nested(value)) if field == 1 else ():
            if inner == 1:
                name, feature = "", memoryview(b"")
                for part, content in _fields(_nested(entry)):
                    if part == 1:
                        name = bytes(_nested(content)).decode()
                    elif part == 2:
                        feature = _nested(content)
                features[name] = _feature(feature)
                if len(features) > _MOST_FEATURES:
                    raise ValueError(f"more than {_MOST_FEATURES:,} features")
    return features


def _feature(data: memoryview) -> Feature:
    found: Feature = ()
    for kind, content in _fields(data):
        values = (value for number, value in _fields(_nested(content)) if number == 1)
        if kind == 1:
            found = _list(bytes(_nested(value)) for value in values)
        elif kind == 2:
            found = _list(number for value in values for (number,) in struct.iter_unpack("<f", _nested(value)))
        elif kind == 3:
            found = _list(_signed(number) for value in values for number in _integers(value))
    return found


def _list(values: Iterable[Value]) -> list[Value]:
    """Returns values as a list, unless there are so many that a small file could take all memory."""
    found = list(islice(values, MOST_VALUES + 1))
    if len(found) > MOST_VALUES:
        raise ValueError(f"a list of more than {MOST_VALUES:,} values")
    return found


def _integers(value: int | memoryview) -> Iterator[int]:
    """Yields the integers of a list that is packed into one field, or is one field each."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _read_varint(value, at)
        yield number


def _nested(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a list or text belongs")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the numbers and contents of a message's fields."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        way = key & 7
        if way == _VARINT:
            number, at = _read_varint(data, at)
            yield key >> 3, number
            continue
        if way == _BYTES:
            length, at = _read_varint(data, at)
        elif way in (_EIGHT, _FOUR):
            length = 8 if way == _EIGHT else 4
        else:
            raise ValueError(f"a field written in the unknown way {way}")
        if length > len(data) - at:
            raise ValueError("a field that is longer than what is left")
        yield key >> 3, data[at : at + length]
        at += length


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number of more than 64 bits")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
