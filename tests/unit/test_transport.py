"""A pack arrives as it was sent, smaller on the way, and whatever happened to it there is found out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import COLOUR, picture, tree

from medimg.artifact import ModelFolder
from medimg.config import JobSpec
from medimg.data import shards, transport
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack, build
from medimg.data.transport import expand, expanded, travelling
from medimg.errors import DatasetError, StorageError
from medimg.job import Interrupted
from medimg.progress import Event

SIDE = 9


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several shards, several chunks a shard, several reads a chunk."""
    monkeypatch.setattr(shards, "MOST_IN_SHARD", 4)
    monkeypatch.setattr(transport, "_CHUNK_BYTES", 3 * SIDE * SIDE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Twelve images in three shards, grey ones and one with colour."""
    root = tree(tmp_path / "images", {"train/NORMAL": 5, "train/PNEUMONIA": 6})
    picture(root / "train/NORMAL/colour.png", shape=COLOUR)
    dataset = Dataset.from_folder(root)
    return build(dataset, SIDE, facts=dataset.index())


@pytest.fixture
def sent(pack: Pack, tmp_path: Path) -> Path:
    """The objects of the pack, as they lie in a bucket."""
    folder = tmp_path / "sent"
    folder.mkdir()
    for parcel in travelling(pack.path, pack.manifest):
        (folder / parcel.name).write_bytes(parcel.content())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file of a pack."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shard_of(folder: Path) -> Path:
    """Returns one compressed shard."""
    return sorted(folder.glob(f"images-*.{transport.CODEC}"))[0]


def test_a_pack_arrives_as_it_was_sent(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """Byte for byte, every shard and the manifest; progress counts the images."""
    events: list[Event] = []
    expand(sent, tmp_path / "arrived", pack.manifest, events.append)
    assert content(tmp_path / "arrived") == content(pack.path)
    assert len(Pack.open(tmp_path / "arrived", verify=True)) == 12
    assert {event.stage for event in events} == {"downloading"}
    counts = [(event.done, event.total) for event in events]
    assert counts == [(0, 12), (4, 12), (8, 12), (12, 12)]


@given(
    data=st.binary(min_size=0, max_size=300),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])),
)
@settings(deadline=None)
def test_the_filter_loses_nothing(data: bytes, shape: tuple[int, ...]) -> None:
    """Of any pixels in any shape, since differences are taken modulo 256."""
    size = int(np.prod(shape))
    images = np.resize(np.frombuffer(data or b"\0", np.uint8), size).reshape(shape)
    np.testing.assert_array_equal(transport._restored(transport._filtered(images).ravel(), shape), images)


def test_photographs_become_smaller_than_zlib_alone_makes_them(real_data: Path) -> None:
    """The reason for the filter: at most half of a radiograph's bytes and four fifths of zlib's."""
    dataset = Dataset.from_folder(real_data / "chestxray" / "kaggle224").subset(0.01)
    pack = build(dataset, 224, facts=dataset.index())
    shards = [parcel for parcel in travelling(pack.path, pack.manifest) if parcel.shape]
    raw = b"".join(parcel.source.read_bytes() for parcel in shards)
    compressed = sum(len(parcel.content()) for parcel in shards)
    assert compressed < 0.5 * len(raw)
    assert compressed < 0.8 * len(zlib.compress(raw, 6))


def test_a_shards_name_follows_from_its_pixels_alone(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other ids of the same images send the same objects, except for the manifest."""
    names = [parcel.name for parcel in travelling(pack.path, pack.manifest)]
    assert names[-2:] == [pack.manifest, "pack.json"], "where pack.json is, everything is"
    assert all(re.fullmatch(r"images-\d{5}-[0-9a-f]{16}\.gradient\.zlib", name) for name in names[:-2])
    monkeypatch.setenv("MEDIMG_SALT", "another")
    dataset = Dataset.from_folder(pack.path.parents[2] / "images")
    other = build(dataset, SIDE, facts=dataset.index())
    assert other.manifest != pack.manifest
    again = [parcel.name for parcel in travelling(other.path, other.manifest)]
    assert [name for name in again if name not in names] == [other.manifest]


def test_the_bytes_are_the_same_each_time(pack: Pack) -> None:
    """So that an object of a name never changes."""
    first, second = ([p.content() for p in travelling(pack.path, pack.manifest)] for _ in range(2))
    assert first == second


def test_a_damaged_shard_is_not_sent(pack: Pack) -> None:
    """Its object would be believed by its name for ever."""
    shard = travelling(pack.path, pack.manifest)[0]
    good = shard.source.read_bytes()
    for bad in (bytes([good[0] ^ 1]) + good[1:], good[:-1], good + b"\0", b""):
        shard.source.write_bytes(bad)
        with pytest.raises(DatasetError, match=f"{shard.source.name} is damaged"):
            shard.content()
    shard.source.unlink()
    with pytest.raises(DatasetError, match=f"{shard.source.name} is missing"):
        shard.content()


def test_an_object_cut_off_anywhere_is_found_out(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """At every length; the message names the object and says what to do."""
    path = shard_of(sent)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(DatasetError, match=rf"{path.name} is damaged.*submit the dataset again"):
            expand(sent, tmp_path / f"arrived {length}", pack.manifest)


def test_an_object_altered_anywhere_is_found_out(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """One bit in each byte, and a byte too many."""
    path = shard_of(sent)
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(DatasetError, match=rf"{path.name} is damaged"):
            expand(sent, tmp_path / f"arrived {place}", pack.manifest)
    path.write_bytes(good + b"\0")
    with pytest.raises(DatasetError, match=r"something follows its end"):
        expand(sent, tmp_path / "more", pack.manifest)


def test_other_pixels_than_the_name_says_are_found_out(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """Well compressed and of the right size: the hash of the pixels decides."""
    path = shard_of(sent)
    size = 4 * SIDE * SIDE
    path.write_bytes(zlib.compress(bytes(size)))
    with pytest.raises(DatasetError, match="its pixels have another hash"):
        expand(sent, tmp_path / "arrived", pack.manifest)


def test_a_bomb_writes_no_more_than_the_pack_says(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """An object that would become a gigabyte is left after the shard's own length."""
    path = shard_of(sent)
    packer = zlib.compressobj(9)
    path.write_bytes(b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush())
    with pytest.raises(DatasetError, match=f"{path.name} is damaged: it does not end where it should"):
        expand(sent, tmp_path / "arrived", pack.manifest)
    assert max(file.stat().st_size for file in (tmp_path / "arrived").iterdir()) <= 3 * 4 * SIDE * SIDE


@pytest.mark.parametrize("name", ["shard", "manifest", "pack.json"])
def test_a_missing_object_is_named(pack: Pack, sent: Path, tmp_path: Path, name: str) -> None:
    """Whichever it is."""
    path = {"shard": shard_of(sent), "manifest": sent / pack.manifest, "pack.json": sent / "pack.json"}[name]
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{re.escape(path.name)} is missing"):
        expand(sent, tmp_path / "arrived", pack.manifest)


def _named(shard: dict[str, object]) -> None:
    shard["file"] = "../../escaped.u8"


def _hashed(shard: dict[str, object]) -> None:
    shard["sha256"] = "../" * 6 + "x" * 46


def _negative(shard: dict[str, object]) -> None:
    shard["images"] = -1


def _wordy(shard: dict[str, object]) -> None:
    shard["channels"] = "three"


@pytest.mark.parametrize("change", [_named, _hashed, _negative, _wordy])
def test_a_hostile_description_is_refused(
    pack: Pack, sent: Path, tmp_path: Path, change: Callable[[dict[str, object]], None]
) -> None:
    """Its names become paths: none leads outside, and nothing is written."""
    facts = json.loads((sent / "pack.json").read_text())
    change(facts["shards"][0])
    (sent / "pack.json").write_text(json.dumps(facts))
    with pytest.raises(DatasetError, match=r"pack\.json is missing or damaged"):
        expand(sent, tmp_path / "deep" / "arrived", pack.manifest)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(DatasetError, match="cannot be the name of a pack's manifest"):
        travelling(pack.path, "../pack.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_with_what_to_do(
    pack: Pack, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was written of the pack is removed."""
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"the disk is full: .*disk_gb"), expanded(sent, pack.manifest):
        pytest.fail("there is no pack")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_travelled_pack_is_expanded_beside_and_removed_at_the_end(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """Also when the work fails; what the job was given stays as it was."""
    before = content(sent)
    with expanded(sent, pack.manifest) as folder:
        assert folder.is_relative_to(tmp_path / "tmp")
        assert len(Pack.open(folder, pack.manifest, verify=True)) == 12
    with pytest.raises(KeyError), expanded(sent, pack.manifest):
        raise KeyError
    assert list((tmp_path / "tmp").iterdir()) == []
    assert content(sent) == before


def test_a_pack_that_has_not_travelled_is_used_where_it_is(pack: Pack, tmp_path: Path) -> None:
    """Nothing is copied on the machine that made it."""
    with expanded(pack.path, pack.manifest) as folder:
        assert folder == pack.path
        assert list((tmp_path / "tmp").iterdir()) == []


def test_a_job_told_to_stop_does_not_expand_on(pack: Pack, sent: Path, tmp_path: Path) -> None:
    """What `report` raises ends it, and nothing is left."""

    def report(event: Event) -> None:
        if event.done:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted), expanded(sent, pack.manifest, report):
        pytest.fail("there is no pack")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_job_does_the_same_with_a_pack_that_has_travelled(
    trained: ModelFolder, phantoms: Path, tmp_path: Path
) -> None:
    """Predictions equal to the last bit; its first event is "importing", its only "done" the last."""
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    pack = build(dataset, 64, facts=dataset.index())
    sent = tmp_path / "sent"
    sent.mkdir()
    for parcel in travelling(pack.path, pack.manifest):
        (sent / parcel.name).write_bytes(parcel.content())
    (tmp_path / "inputs").mkdir()
    shutil.copytree(trained.path, tmp_path / "inputs" / "model")
    spec = JobSpec(
        kind="predict", base="x", checkpoints="x", data=pack.fingerprint, pack=pack.path.name, samples=pack.manifest,
        inputs={"model": "model"}, split="test", code="x",
    )  # fmt: skip
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    tables, logs = [], []
    for number, data in enumerate((pack.path, sent)):
        command = [sys.executable, "-m", "medimg.predict", "--spec", tmp_path / "spec.json", "--data", data]
        command += ["--inputs", tmp_path / "inputs", "--out", tmp_path / f"out{number}"]
        command += ["--checkpoints", tmp_path / "checkpoints"]
        environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        tables.append((tmp_path / f"out{number}" / "predictions.csv").read_bytes())
        logs.append([json.loads(line) for line in done.stdout.splitlines()])
    assert tables[0] == tables[1]
    assert logs[1][0]["stage"] == "importing"
    assert [line["event"] for line in logs[1]].count("done") == 1
    assert logs[1][-1]["event"] == "done"
    assert "downloading" in {line.get("stage") for line in logs[1]}
    assert "downloading" not in {line.get("stage") for line in logs[0]}
    assert list((tmp_path / "tmp").iterdir()) == []
