"""TFRecord files are written and read without TensorFlow, as TensorFlow does; damage is named by file and record."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import cut, picture, tree

from medimg.data.dataset import Dataset
from medimg.data.encode import encode
from medimg.data.records.checksum import crc32c
from medimg.data.records.example import MOST_VALUES, Feature, decode_example, encode_example
from medimg.data.records.framing import frame, read_frames
from medimg.errors import ConfigError, DatasetError

COUNTS = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in ("ill", "normal")}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Eighteen images with splits, each pair of a patient."""
    root = tree(tmp_path / "Jane Doe's scans", COUNTS)
    return Dataset.from_folder(root, group=r"(\w+/p\d)")


def records(path: Path, *features: Mapping[str, Feature]) -> Path:
    """Writes a file with these records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(frame(encode_example(each)) for each in features))
    return path


def image(seed: int = 0) -> Sequence[bytes]:
    """Returns the bytes of a picture as a feature."""
    return [encode(np.random.default_rng(seed).integers(0, 256, (6, 8), np.uint8))]


def refused(path: Path, **arguments: object) -> str:
    """Returns the message with which records are refused."""
    with pytest.raises(DatasetError) as caught:
        Dataset.from_tfrecord(path, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


# -- there and back ----------------------------------------------------------------------------------------------------


def facts(dataset: Dataset) -> tuple[object, ...]:
    """Returns what must be the same after a round trip."""
    return dataset.fingerprint, dataset.classes, dataset.task, dataset.positive, dataset.splits


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_dataset_comes_back_as_it_was(dataset: Dataset, tmp_path: Path, shards: int) -> None:
    """Pixels, labels, splits and groups, whatever the number of files."""
    paths = dataset.to_tfrecord(tmp_path / "records", shards=shards)
    assert len(paths) == 3 * shards
    assert all(path.name.startswith(("train-", "val-", "test-")) for path in paths)
    assert facts(Dataset.from_tfrecord(tmp_path / "records")) == facts(dataset)
    assert facts(Dataset.from_tfrecord(paths)) == facts(dataset)
    assert Dataset.from_tfrecord(tmp_path / "records/test-*").splits == {"test": 6}


def test_labels_that_are_unknown_come_back_unknown(dataset: Dataset, tmp_path: Path) -> None:
    """Several labels at once, without splits, patients of some images only; kept columns come back where named."""
    labels = [(1, 0, None), (0, 1, 0), (0, 0, 0)]
    samples = tuple(
        replace(sample, labels=labels[number % 3], split=None, group=sample.group if number % 2 else None,
                columns={"sex": "F", "age": "41"})
        for number, sample in enumerate(dataset.samples)
    )  # fmt: skip
    several = replace(
        dataset, samples=samples, classes=("a", "b", "ç"), task="multilabel", positive=None, keep=("sex",)
    )
    several.to_tfrecord(tmp_path / "records")
    back = Dataset.from_tfrecord(tmp_path / "records", columns=["sex"])
    assert facts(back) == facts(several)
    assert back.keep == ("sex",)
    assert {sample.columns["sex"] for sample in back.samples} == {"F"}
    assert "'age'" in refused(tmp_path / "records", columns=["age"])


def test_no_name_of_a_file_or_patient_is_written(dataset: Dataset, tmp_path: Path) -> None:
    """Records hold salted ids and groups, and pixels without the picture's own remarks."""
    secret = picture(tmp_path / "Jane Doe's scans/train/ill/doe.jpg", comment=b"Jane Doe, born 1970")
    assert b"Jane Doe" in secret.read_bytes()
    noted = Dataset.from_folder(tmp_path / "Jane Doe's scans", group=lambda path: f"Jane Doe {path[0]}")
    written = b"".join(path.read_bytes() for path in noted.to_tfrecord(tmp_path / "records"))
    for word in (b"Jane", b"Doe", b"doe", b"scans", b"p0.", str(tmp_path).encode()):
        assert word not in written
    assert noted.samples[0].id.encode() in written


def test_images_that_cannot_be_read_are_left_out(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fingerprint never counted them; the user is told."""
    cut(dataset.samples[4].path)
    dataset.to_tfrecord(tmp_path / "records")
    assert "1 image that cannot be read left out" in capsys.readouterr().err
    assert facts(Dataset.from_tfrecord(tmp_path / "records"))[0] == dataset.fingerprint


def test_a_folder_that_is_not_empty_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    """And a number of shards that cannot be is refused."""
    dataset.to_tfrecord(tmp_path / "records")
    with pytest.raises(DatasetError, match="not empty"):
        dataset.to_tfrecord(tmp_path / "records")
    with pytest.raises(ConfigError, match="shards=0"):
        dataset.to_tfrecord(tmp_path / "more", shards=0)
    assert not (tmp_path / "more").exists()


def test_tensorflow_reads_what_we_write_and_we_what_it_writes(dataset: Dataset, tmp_path: Path) -> None:
    """Its own reader, parser and writer are the judge, compressed and not."""
    import tensorflow as tf

    paths = dataset.to_tfrecord(tmp_path / "records")
    sums = set()
    for record in tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator():
        found = tf.io.parse_single_example(record, {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        })  # fmt: skip
        sums.add((int(found["image/class/label"]), tf.io.decode_png(found["image/encoded"]).numpy().tobytes()))
    assert sums == {(sample.labels, np.asarray(_pixels(sample.path)).tobytes()) for sample in dataset.samples}

    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(image()[0])
    example.features.feature["numbers"].int64_list.value.extend([0, 1, -1, 2**63 - 1, -(2**63)])
    example.features.feature["shares"].float_list.value.extend([0.5, -1.25])
    example.features.feature["nothing"].bytes_list.SetInParent()
    content = example.SerializeToString()
    assert decode_example(content) == {
        "image": image(), "numbers": [0, 1, -1, 2**63 - 1, -(2**63)], "shares": [0.5, -1.25], "nothing": [],
    }  # fmt: skip
    del example.features.feature["nothing"]  # it has a kind there, and no value
    assert tf.train.Example.FromString(encode_example(decode_example(example.SerializeToString()))) == example
    for compression in ("", "GZIP"):
        file = tmp_path / f"theirs{compression}"
        with tf.io.TFRecordWriter(str(file), compression) as writer:
            writer.write(content)
            writer.write(b"")
        assert [data for _, data in read_frames(file)] == [content, b""]


def _pixels(path: Path) -> np.ndarray:
    from medimg.data.decode import decode, read

    return decode(read(path), name="")


# -- others' records ---------------------------------------------------------------------------------------------------


def test_a_feature_for_each_finding_is_read(tmp_path: Path) -> None:
    """As Kaggle's TFRecords of NIH have them; the first word of a file's name is its split."""
    rows = [{"image": image(n), "Edema": [n % 2], "Mass": [n // 2 % 2], "Patient ID": [7 + n // 2]} for n in range(4)]
    records(tmp_path / "train-0.tfrec", *rows[:2])
    records(tmp_path / "test-0.tfrec", *rows[2:])
    dataset = Dataset.from_tfrecord(tmp_path, labels=["Mass", "Edema"], group="Patient ID")
    assert (dataset.task, dataset.classes, dataset.splits) == ("multilabel", ("Edema", "Mass"), {"train": 2, "test": 2})
    assert sorted(sample.labels for sample in dataset.of("test")) == [(0, 1), (1, 1)]  # type: ignore[type-var]
    assert {sample.group for sample in dataset.samples} == {"7", "8"}


@pytest.mark.parametrize(
    ("values", "arguments", "shown"),
    [
        ([[0], [1], [1]], {}, ["0", "1", "1"]),
        ([[0], [1], [2]], {"classes": ["cat", "dog", "ape"]}, ["cat", "dog", "ape"]),
        ([[b"normal"], [b"ill"], [b"ill"]], {}, ["normal", "ill", "ill"]),
        ([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], {"classes": ["normal", "ill"]}, ["normal", "ill", "ill"]),
    ],
)
def test_a_class_is_a_number_a_name_or_a_place(
    tmp_path: Path, values: Sequence[Feature], arguments: Mapping[str, object], shown: list[str]
) -> None:
    """In the one feature `label`; without groups, which is said."""
    path = records(tmp_path / "a.tfrecord", *({"image": image(n), "label": v} for n, v in enumerate(values)))
    dataset = Dataset.from_tfrecord(path, **arguments)  # type: ignore[arg-type]
    ordered = sorted(dataset.samples, key=lambda sample: sample.path)
    assert [dataset.label_names(sample) for sample in ordered] == [(name,) for name in shown]
    assert "do not say whose images they are" in dataset.notices[0]


@pytest.mark.parametrize("name", ["file", "group", "split", "class", "file "])
def test_a_feature_may_have_any_name(tmp_path: Path, name: str) -> None:
    """As a column or a label: each picture keeps its own label, whatever else a feature of that name could mean."""
    rows = [
        {"image": image(n), "label": [n % 2], name: [b"00000/00000/%08d.png" % (3 - n)]} for n in range(4)
    ]  # fmt: skip
    dataset = Dataset.from_tfrecord(records(tmp_path / "a.tfrecord", *rows), columns=[name])
    ordered = sorted(dataset.samples, key=lambda sample: sample.path)
    assert [sample.labels for sample in ordered] == [0, 1, 0, 1]
    assert [sample.columns for sample in ordered] == [{name: f"00000/00000/{3 - n:08d}.png"} for n in range(4)]
    for n, sample in enumerate(ordered):
        assert sample.path.read_bytes() == image(n)[0]
    rows = [{"image": image(n), name: [n % 2], "b": [1]} for n in range(4)]
    dataset = Dataset.from_tfrecord(records(tmp_path / "b.tfrecord", *rows), labels=[name, "b"])
    ordered = sorted(dataset.samples, key=lambda sample: sample.path)
    assert [set(dataset.label_names(sample)) for sample in ordered] == [{"b"}, {"b", name.strip()}] * 2


def test_a_label_may_be_a_column_as_well(tmp_path: Path) -> None:
    """It stays a label."""
    rows = [{"image": image(n), "Edema": [n % 2], "Mass": [n // 2]} for n in range(4)]
    path = records(tmp_path / "a.tfrecord", *rows)
    dataset = Dataset.from_tfrecord(path, labels=["Edema", "Mass"], columns=["Mass"])
    assert (dataset.task, dataset.classes, dataset.keep) == ("multilabel", ("Edema", "Mass"), ("Mass",))
    assert sorted(sample.columns["Mass"] for sample in dataset.samples) == ["0", "0", "1", "1"]
    assert "twice" in refused(path, labels=["Mass", "Mass"])


def test_a_split_that_is_missing_or_unknown_is_told_with_its_file(tmp_path: Path) -> None:
    """And with what to do about it."""
    rows = [{"image": image(n), "label": [n % 2], "fold": [b"fold 3"]} for n in range(2)]
    records(tmp_path / "train-0.tfrec", *rows)
    other = records(tmp_path / "colours.tfrec", *rows)
    message = refused(tmp_path)
    assert f"{other}, record 1: no split" in message
    assert "split=" in message
    assert f"{other}, record 1: the split 'fold 3' is not train" in refused(tmp_path, split="fold")


def test_classes_that_are_numbers_stand_in_their_order(tmp_path: Path) -> None:
    """2 before 10, as one class of each image or as places in a list; what was written in another order comes so."""
    path = records(tmp_path / "a.tfrecord", *({"image": image(n), "label": [n]} for n in range(12)))
    dataset = Dataset.from_tfrecord(path)
    assert dataset.classes == tuple(map(str, range(12)))
    assert [s.labels for s in sorted(dataset.samples, key=lambda sample: sample.path)] == list(range(12))
    rows = [{"image": image(n), "label": [int(place == n) for place in range(12)]} for n in range(11)]
    dataset = Dataset.from_tfrecord(records(tmp_path / "b.tfrecord", *rows, {"image": image(11), "label": [1] * 12}))
    assert dataset.classes == tuple(map(str, range(12)))
    assert [s.labels for s in sorted(dataset.samples, key=lambda sample: sample.path)][10] == (*[0] * 10, 1, 0)
    path = records(tmp_path / "c.tfrecord", *({"image": image(n), "label": [value]} for n, value in enumerate([2, 10])))
    dataset = Dataset.from_tfrecord(path, positive="2")
    assert (dataset.classes, dataset.positive) == (("2", "10"), "2")
    for number, order in enumerate((("10", "2", "1"), ("1", "2", "10"))):
        three = Dataset.from_tfrecord(
            records(
                tmp_path / "d.tfrecord", *({"image": image(n), "label": [value]} for n, value in enumerate([2, 1, 10]))
            )
        )
        moved = {name: order.index(name) for name in three.classes}
        samples = tuple(replace(s, labels=moved[three.label_names(s)[0]]) for s in three.samples)
        written = replace(three, classes=order, samples=samples)
        written.to_tfrecord(tmp_path / f"records{number}")
        assert facts(Dataset.from_tfrecord(tmp_path / f"records{number}")) == facts(written)


@pytest.mark.parametrize(
    ("features", "arguments", "message"),
    [
        (
            {"picture": image(), "label": [1]},
            {},
            "none of the usual names for image=.*'label' (int64), 'picture' (bytes)",
        ),
        ({"image": image(), "label": [1]}, {"image": "imag"}, "Did you mean 'image'"),
        ({"image": image(), "label": [1]}, {"group": "patient"}, "no feature 'patient'"),
        ({"image": [b"\0\1\2"], "label": [1]}, {}, "tf.io.encode_png"),
        ({"image": [0, 1, 2], "label": [1]}, {}, "not one encoded picture"),
        ({"image": image(), "label": [3]}, {"classes": ["a", "b"]}, "the class 3 is none"),
        ({"image": image(), "label": [0, 1, 0]}, {"classes": ["a", "b"]}, "3 values for 2 labels"),
        ({"image": image(), "label": [b"a", b"b"]}, {}, "no list of 1 and 0"),
        ({"image": image(), "label": [b"\xff"]}, {}, "not UTF-8"),
        ({"image": image(), "label": []}, {}, "'label' is empty"),
        ({"image": image(), "label": [1], "g": [b"a", b"b"]}, {"group": "g"}, "2 values, not one"),
    ],
)
def test_records_of_another_shape_are_refused_with_what_they_hold(
    tmp_path: Path, features: Mapping[str, Feature], arguments: Mapping[str, object], message: str
) -> None:
    """The message names the features that are there, or the record and what is wrong with it."""
    path = records(tmp_path / "a.tfrecord", features)
    for part in message.split(".*"):
        assert part in refused(path, **arguments)


def test_tensorflow_is_not_needed(dataset: Dataset, tmp_path: Path) -> None:
    """A machine that trains with JAX reads and writes records too."""
    dataset.to_tfrecord(tmp_path / "records")
    program = (
        "import sys; sys.modules['tensorflow'] = None; import medimg; "
        f"print(len(medimg.Dataset.from_tfrecord({str(tmp_path / 'records')!r})))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "18\n"


def test_what_is_no_file_of_records_is_refused(tmp_path: Path) -> None:
    """Nothing there, an empty file, a folder without any, a text."""
    assert "there is no file" in refused(tmp_path / "none.tfrecord")
    (tmp_path / "empty.tfrecord").touch()
    assert "no records" in refused(tmp_path / "empty.tfrecord")
    (tmp_path / "folder").mkdir()
    assert "no TFRecord files" in refused(tmp_path / "folder")
    (tmp_path / "text.tfrecord").write_text("<html>not found</html>")
    assert "record 1: this is no TFRecord file" in refused(tmp_path / "text.tfrecord")


# -- damage ------------------------------------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_standard() -> None:
    """RFC 3720's examples, and long messages as one byte at a time gives them."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    table = [crc32c(bytes([number])) for number in range(256)]
    zero = crc32c(b"\0")

    def slow(data: bytes) -> int:
        # From the checksums of single bytes: what a byte adds to a state is what it adds to the first one.
        state = 0xFFFFFFFF
        for byte in data:
            low = (state ^ byte) & 0xFF
            state = (table[low ^ 0xFF] ^ table[0xFF]) ^ state >> 8
        return state ^ 0xFFFFFFFF

    assert zero == slow(b"\0")
    draw = random.Random(0)
    for size in (*range(120, 135), 1000, 4096, 8191):
        data = draw.randbytes(size)
        assert crc32c(data) == slow(data)


def test_every_damaged_byte_is_found_and_its_record_named(tmp_path: Path) -> None:
    """Changed, cut off or added bytes, anywhere in the second of three records."""
    rows = [{"image": image(number), "label": [number % 2]} for number in range(3)]
    path = records(tmp_path / "a.tfrecord", *rows)
    whole = path.read_bytes()
    start = len(frame(encode_example(rows[0])))
    end = start + len(frame(encode_example(rows[1])))
    for at in range(start, end):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(DatasetError, match="record 2: "):
            list(read_frames(path))
        if at > start:
            path.write_bytes(whole[:at])
            with pytest.raises(DatasetError, match="record 2: "):
                list(read_frames(path))
    path.write_bytes(whole[:end] + b"x" + whole[end:])
    assert "a.tfrecord, record 3: " in refused(path)
    packed = gzip.compress(whole)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DatasetError, match=r"a\.tfrecord, record [123]: "):
        list(read_frames(path))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_damaged_examples_end_in_one_kind_of_error(data: bytes, at: int, byte: int) -> None:
    """Any bytes, and a sound Example with a byte changed: features, or a ValueError."""
    sound = bytearray(encode_example({"image": [b"\x89PNG"], "label": [1, -1, 2**40], "share": [0.5], "none": []}))
    sound[at % len(sound)] = byte
    for content in (data, bytes(sound)):
        try:
            features = decode_example(content)
        except ValueError:
            continue
        assert all(isinstance(value, bytes | float | int) for values in features.values() for value in values)


def test_a_record_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    """A length that no file has, a list of too many numbers, and a small file that unpacks to a large one."""
    path = tmp_path / "a.tfrecord"
    for length in (2**63, 2**29 + 1, 10_000):
        head = struct.pack("<Q", length)
        path.write_bytes(head + frame(head)[20:24] + b"x" * 100)
        assert "record 1: " in refused(path)
    ones = b"\x01" * (MOST_VALUES + 1)
    with pytest.raises(ValueError, match="values"):
        decode_example(_packed(ones))
    path.write_bytes(gzip.compress(frame(bytes(10**6)) * 80, compresslevel=1))
    with pytest.raises(DatasetError, match="over 100 times its size"):
        list(read_frames(path))


def _packed(numbers: bytes) -> bytes:
    """Returns an Example with a list of small numbers, written without making the list."""

    def field(content: bytes) -> bytes:
        size, length = len(content), bytearray()
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes(length) + bytes([size]) + content

    feature = b"\x1a" + field(b"\x0a" + field(numbers))
    entry = b"\x0a" + field(b"label") + b"\x12" + field(feature)
    return b"\x0a" + field(b"\x0a" + field(entry))
