"""A pack holds the pixels and no names, is found again by its content, and survives kills, rivals and full disks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_folders import COLOUR, picture, pixels, tree
from PIL import Image

from medimg.data import pack as packing
from medimg.data import shards
from medimg.data.dataset import Dataset
from medimg.data.decode import decode, read
from medimg.data.pack import Pack, build
from medimg.data.pixels import Picture, as_mode
from medimg.errors import DatasetError, ImageRejected, StorageError
from medimg.progress import Event, Report, silent

SIDE = 5


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_IN_SHARD", 4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eighteen images: grey, colour, grey stored as colour, of several sizes."""
    tree(tmp_path / "images", {"train/NORMAL": 5, "train/PNEUMONIA": 4, "val/NORMAL": 2, "val/PNEUMONIA": 2,
                               "test/NORMAL": 2})  # fmt: skip
    picture(tmp_path / "images/test/PNEUMONIA/p0.png", shape=COLOUR)
    picture(tmp_path / "images/test/PNEUMONIA/p1.png", shape=(20, 9))
    picture(tmp_path / "images/test/PNEUMONIA/p2.png", shape=(SIDE, SIDE))
    Image.fromarray(pixels("as colour")).convert("RGB").save(tmp_path / "images/train/NORMAL/p4.png")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that packing decodes."""
    names: list[str] = []
    real = shards.look

    def counting(data: bytes, *, name: str, size: tuple[int, int] | None = None) -> Picture:
        names.append(name)
        return real(data, name=name, size=size)

    monkeypatch.setattr(shards, "look", counting)
    return names


def load(root: Path) -> Dataset:
    """Reads the folder with a patient an image."""
    return Dataset.from_folder(root, group=r"(\w+/\w+/p\d+)")


def packed(dataset: Dataset, size: int = SIDE, report: Report = silent) -> Path:
    """Builds the pack and returns its folder."""
    return build(dataset, size, facts=dataset.index(), report=report).path


def manifests(folder: Path) -> list[str]:
    """Returns the names of a pack's manifests."""
    return sorted(path.name for path in folder.glob("samples-*.jsonl"))


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file of a pack."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_image_is_what_decoding_and_resizing_give(root: Path) -> None:
    """Bit for bit, joined by id; over several shards and in any order."""
    dataset = load(root)
    pack = Pack.open(packed(dataset), verify=True)
    assert len(pack) == len(pack.samples) == 18
    assert (pack.classes, pack.task, pack.channels, pack.image_size) == (("NORMAL", "PNEUMONIA"), "binary", 3, SIDE)
    rows = np.random.default_rng(0).permutation(18)
    images, targets = pack.images(rows), pack.targets(rows)
    assert (images.dtype, images.shape) == (np.uint8, (18, SIDE, SIDE, 3))
    for row, image, target in zip(rows, images, targets, strict=True):
        sample = dataset[pack.samples[row].id]
        expected = decode(read(sample.path), name="x", size=(SIDE, SIDE))
        np.testing.assert_array_equal(image, as_mode(expected, 3))
        assert target == sample.labels
        assert pack.samples[row].split == sample.split


def test_splits_are_found_by_row(root: Path) -> None:
    """And all rows without one; none is none."""
    pack = Pack.open(packed(load(root)))
    assert {split: len(pack.rows(split)) for split in ("train", "val", "test")} == {"train": 9, "val": 4, "test": 5}
    assert sorted(np.concatenate([pack.rows(split) for split in ("train", "val", "test")])) == list(range(18))
    assert pack.rows(None).tolist() == list(range(18))
    assert pack.rows("dev").shape == (0,)
    assert pack.images([]).shape == (0, SIDE, SIDE, 3)
    assert pack.targets([]).shape == (0,)


def test_grey_images_take_one_channel_and_mixed_shards_expand(root: Path) -> None:
    """Grey stored as colour is grey; a shard with one colour image is colour."""
    pack = Pack.open(packed(load(root)))
    channels = [shard["channels"] for shard in pack.facts["shards"]]
    assert sorted(channels) == [1, 1, 1, 1, 3]
    (root / "test/PNEUMONIA/p0.png").unlink()
    grey = Pack.open(packed(load(root)))
    assert grey.channels == 1
    assert grey.images([0, 5]).shape == (2, SIDE, SIDE, 1)


def test_shards_stay_small_for_large_images() -> None:
    """A shard is built in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MOST_IN_SHARD", 512)
        for size in (28, 224, 1024, 8000):
            count = shards._images_a_shard(size)
            assert count >= 1
            assert count == 1 or count * size * size * 3 <= 80_000_000
        assert shards._images_a_shard(224) == 512


def test_unknown_labels_are_nan(tmp_path: Path) -> None:
    """float32, a column a label."""
    images = tree(tmp_path / "x", {"": 3})
    (tmp_path / "t.csv").write_text("file,A,B\np0,1,\np1,0,0\np2,1,1\n")
    dataset = Dataset.from_csv(tmp_path / "t.csv", images=images, path="file", labels=["A", "B"])
    pack = Pack.open(packed(dataset))
    by_id = dict(zip((sample.id for sample in pack.samples), pack.targets(range(3)), strict=True))
    found = np.array([by_id[sample.id] for sample in dataset.samples])
    np.testing.assert_array_equal(found, np.array([[1, np.nan], [0, 0], [1, 1]], np.float32))
    assert found.dtype == np.float32
    assert pack.targets([]).shape == (0, 2)


# -- where it lies ---------------------------------------------------------------------------------------------------


def test_the_same_content_is_the_same_pack(root: Path, decoded: list[str]) -> None:
    """Whatever the files are called and whichever the salt: only a manifest is added, and no file is changed."""
    dataset = load(root)
    first = packed(dataset)
    before = content(first)
    decoded.clear()
    (root / "train/NORMAL/p0.png").rename(root / "train/NORMAL/p99.png")
    assert packed(load(root)) == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_SALT", "another")
        salted = load(root)
        last = build(salted, SIDE, facts=salted.index())
    assert last.path == first
    assert decoded == []
    after = content(first)
    assert {name: after[name] for name in before} == before
    assert len(manifests(first)) == 3
    assert {sample.id for sample in last.samples} == {sample.id for sample in salted.samples}


def test_a_job_reads_the_manifest_it_was_submitted_with(root: Path) -> None:
    """Also when the same images were packed under other names since then."""
    dataset = load(root)
    first = build(dataset, SIDE, facts=dataset.index())
    (root / "train/NORMAL/p0.png").rename(root / "train/NORMAL/p99.png")
    renamed = load(root)
    second = build(renamed, SIDE, facts=renamed.index())
    assert (first.path, first.manifest != second.manifest) == (second.path, True)
    for pack, images in ((first, dataset), (second, renamed)):
        again = Pack.open(pack.path, pack.manifest, verify=True)
        assert {sample.id for sample in again.samples} == {sample.id for sample in images.samples}
        assert again.fingerprint == renamed.fingerprint
    with pytest.raises(DatasetError, match=r"has 2 manifests\. Say which: Pack\.open\(path, 'samples-\w{16}\.jsonl'\)"):
        Pack.open(first.path)


def test_a_manifest_that_is_not_there_is_named(root: Path) -> None:
    """A pack without the one that was asked for, and one without any."""
    folder = packed(load(root))
    with pytest.raises(DatasetError, match=r"samples-0\.jsonl is missing"):
        Pack.open(folder, "samples-0.jsonl")
    (folder / manifests(folder)[0]).unlink()
    with pytest.raises(DatasetError, match=r"samples-\*\.jsonl is missing"):
        Pack.open(folder)


def test_a_pack_is_forgotten_only_when_nobody_needs_it(root: Path) -> None:
    """Not while a submit holds it, nor while a job names it; the next build makes it again."""
    dataset = load(root)
    pack = build(dataset, SIDE, facts=dataset.index())
    name = pack.path.name
    assert not packing.forget(name, wanted=lambda: False)
    assert pack.path.exists()
    del pack
    assert not packing.forget(name, wanted=lambda: True)
    assert packing.forget(name, wanted=lambda: False)
    assert not packing.forget(name, wanted=lambda: False)
    folder = packed(dataset)
    assert folder.name == name
    assert Pack.open(folder, verify=True).samples


def test_a_pack_that_is_there_is_used(root: Path, decoded: list[str]) -> None:
    """The second call decodes and writes nothing."""
    folder = packed(load(root))
    assert len(decoded) == 18
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert packed(load(root)) == folder
    assert len(decoded) == 18
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_other_content_is_another_pack(tmp_path: Path) -> None:
    """Size, labels, splits, groups, the positive class, named columns and which image they belong to."""
    images = tree(tmp_path / "x", {"": 4})

    def table(ages: str, labels: str = "abab", **arguments: object) -> Dataset:
        rows = [f"p{n},{label},{age},{n // 2}" for n, (label, age) in enumerate(zip(labels, ages, strict=True))]
        (tmp_path / "t.csv").write_text("\n".join(["file,label,age,patient", *rows]))
        options = {"images": images, "path": "file", "labels": "label", "positive": "b", **arguments}
        return Dataset.from_csv(tmp_path / "t.csv", **options)  # type: ignore[arg-type]

    plain = table("1234")
    assert packed(table("4321")) == packed(plain)  # a column that is not named is not in it
    folders = [
        packed(plain),
        packed(plain, SIDE + 1),
        packed(table("1234", "abba")),
        packed(table("1234", positive="a")),
        packed(table("1234", group="patient")),
        packed(plain.split(0.3, 0.3)),
        packed(table("1234", columns=["age"])),
        packed(table("4321", columns=["age"])),
        packed(table("1234", columns=["patient"])),
    ]
    assert len(set(folders)) == len(folders)


def test_a_pack_holds_no_name_that_was_not_named(tmp_path: Path) -> None:
    """Canaries in the path, the file's name, the patient, the metadata and an unnamed column: none is in any file."""
    images = tmp_path / "CANARY-root"
    for number in range(8):
        exif = Image.Exif()
        exif[0x010E] = "CANARY-exif"
        picture(images / "CANARY-folder" / f"CANARY-file-{number}.png", exif=exif)
    rows = [f"CANARY-file-{n},{'ab'[n % 2]},CANARY-patient-{n // 2},CANARY-doctor,age-{n}" for n in range(8)]
    (tmp_path / "CANARY-table.csv").write_text("\n".join(["CANARY-path,label,patient,doctor,age", *rows]))
    dataset = Dataset.from_csv(
        tmp_path / "CANARY-table.csv", images=images, path="CANARY-path", labels="label", group="patient",
        columns=["age"], positive="b",
    )  # fmt: skip
    folder = packed(dataset)
    everything = b"".join(content(folder).values())
    assert everything.count(b"CANARY") == 0
    assert str(tmp_path).encode() not in everything
    assert "CANARY" not in folder.name
    assert "CANARY" not in dataset.fingerprint
    pack = Pack.open(folder)
    assert sorted(sample.columns["age"] for sample in pack.samples) == [f"age-{number}" for number in range(8)]
    assert sorted(Counter(sample.group for sample in pack.samples).values()) == [2, 2, 2, 2]


def test_images_that_cannot_be_read_are_not_packed(root: Path) -> None:
    """The others are."""
    (root / "train/NORMAL/p0.png").write_bytes(b"")
    dataset = load(root)
    pack = Pack.open(packed(dataset))
    assert {sample.id for sample in dataset.samples} - {sample.id for sample in pack.samples} == set(dataset.rejected())
    assert len(pack) == 17


@pytest.mark.parametrize(
    ("change", "error"),
    [("pixels", DatasetError), ("gone", ImageRejected), ("folder", ImageRejected), ("broken", ImageRejected)],
)
def test_a_file_that_changes_before_it_is_packed_is_refused(root: Path, change: str, error: type[Exception]) -> None:
    """The pack's address would promise other pixels."""
    dataset = load(root)
    facts = dataset.index()
    path = root / "train/NORMAL/p0.png"
    if change == "pixels":
        picture(path, "new")
    elif change == "gone":
        path.unlink()
    elif change == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(error, match=r"NORMAL/p0\.png"):
        build(dataset, SIDE, facts=facts)


# -- damage ----------------------------------------------------------------------------------------------------------


def damage(folder: Path, kind: str) -> None:
    """Does to a pack what a bad download or disk does."""
    shard, manifest, facts = folder / "images-00001.u8", folder / manifests(folder)[0], folder / "pack.json"
    if kind == "shard cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif kind == "shard gone":
        shard.unlink()
    elif kind == "one bit of a shard":
        shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    elif kind == "manifest cut":
        manifest.write_text(manifest.read_text().rsplit("\n", 2)[0] + "\n")
    elif kind == "one label":
        manifest.write_text(manifest.read_text().replace('"labels": 0', '"labels": 1', 1))
    elif kind == "no JSON":
        facts.write_text("{")
    elif kind == "other JSON":
        facts.write_text("[1]")
    elif kind == "a field gone":
        facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k != "shards"}))
    elif kind == "another version":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "version": 0}))
    else:
        facts.unlink()


MANIFEST = ["manifest cut", "one label"]
SEEN_AT_ONCE = [*MANIFEST, "shard cut", "shard gone", "no JSON", "other JSON", "a field gone", "another version",
                "facts gone"]  # fmt: skip


@pytest.mark.parametrize("kind", [*SEEN_AT_ONCE, "one bit of a shard"])
def test_a_damaged_pack_is_refused_and_built_anew(root: Path, kind: str, decoded: list[str]) -> None:
    """The shards' hashes are compared with `verify`, all else on each opening, and mended by the next build."""
    folder = packed(load(root))
    before = content(folder)
    damage(folder, kind)
    with pytest.raises(DatasetError, match="Remove the folder and submit the dataset again"):
        Pack.open(folder, verify=kind not in SEEN_AT_ONCE)
    decoded.clear()
    if kind in SEEN_AT_ONCE:
        assert packed(load(root)) == folder
        assert content(folder) == before
        assert len(decoded) == (0 if kind in MANIFEST else 18)


def test_a_pack_that_is_built_anew_keeps_the_manifests_of_other_jobs(root: Path) -> None:
    """They may still run; one that is itself damaged is not kept."""
    dataset = load(root)
    first = build(dataset, SIDE, facts=dataset.index())
    (first.path / "samples-0123456789abcdef.jsonl").write_text("damaged")
    (root / "train/NORMAL/p0.png").rename(root / "train/NORMAL/p99.png")
    damage(first.path, "shard cut")
    folder = packed(load(root))
    assert len(manifests(folder)) == 2
    assert Pack.open(folder, first.manifest).samples == first.samples


def test_a_damaged_line_is_named(root: Path) -> None:
    """Where it was changed after the pack was opened."""
    folder = packed(load(root))
    pack = Pack.open(folder)
    manifest = folder / pack.manifest
    manifest.write_text(manifest.read_text().replace("{", "[", 1))
    with pytest.raises(DatasetError, match=r"samples-\w+\.jsonl, line 1 is damaged"):
        pack.samples  # noqa: B018


def test_no_pack_is_no_pack(tmp_path: Path) -> None:
    """A wrong path."""
    with pytest.raises(DatasetError, match="is not a complete pack"):
        Pack.open(tmp_path / "none")


# -- kills, rivals, full disks ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from medimg.data import pack, shards
from medimg.data.dataset import Dataset
shards.MOST_IN_SHARD = 4
write, written = shards.atomic_write, []
def dying(file, data):
    if len(written) == 2:
        file.with_name("." + file.name + "-half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, data)
    written.append(file)
shards.atomic_write = dying
dataset = Dataset.from_folder(sys.argv[1], group=r"(\\w+/\\w+/p\\d+)")
pack.build(dataset, 5, facts=dataset.index())
"""


def test_a_killed_build_goes_on_where_it_stopped(root: Path, decoded: list[str]) -> None:
    """By kill -9 after two of five shards: their eight images are not decoded again, and the pack is the same."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root)], capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    dataset = load(root)
    events: list[Event] = []
    folder = packed(dataset, report=events.append)
    assert len(decoded) == 18 - 8
    resumed = content(folder)
    for path in folder.iterdir():
        path.unlink()
    assert content(packed(dataset)) == resumed
    done = [event.done for event in events if event.stage == "packing"]
    assert done == sorted(done)
    assert (done[-1], events[-1].total) == (18, 18)


def test_two_builders_at_once_make_one_pack(root: Path, decoded: list[str]) -> None:
    """The second waits, says so, and takes what the first has made."""
    dataset = load(root)
    facts = dataset.index()
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(build(dataset, SIDE, facts=facts).path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(decoded) == 18
    assert Pack.open(found[0], verify=True).image_size == SIDE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not sys.platform.startswith("linux") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk here; the simulated one is tested beside")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_typed_error_and_keeps_what_is_done(
    root: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """On a real file system; after something is removed, the next call goes on."""
    monkeypatch.setenv("MEDIMG_HOME", str(small_disk / "home"))
    dataset = load(root)
    facts = dataset.index()
    side = 90  # 4 × 90 × 90 bytes a grey shard
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(250_000))
    with pytest.raises(StorageError, match=r"the disk is full: could not write .* `medimg rm`, or set MEDIMG_HOME"):
        build(dataset, side, facts=facts)
    whole = len(list(small_disk.glob("home/packs/.*.building/images-*.u8")))
    assert 1 <= whole < 5
    decoded.clear()
    ballast.unlink()
    folder = build(dataset, side, facts=facts).path
    assert len(decoded) == 18 - 4 * whole
    assert Pack.open(folder, verify=True).samples


def test_a_disk_that_fills_at_any_write_costs_no_more_than_that_shard(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """The n-th write fails, for every n; the next call decodes what is missing, and the pack is the right one."""
    monkeypatch.setenv("MEDIMG_SALT", "one")
    dataset = load(root)
    facts = dataset.index()
    expected = content(build(dataset, SIDE, facts=facts).path)
    real = os.fsync
    left = 0

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    shards = 5
    for allowed in range(shards + 2):  # then the manifest and pack.json
        monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / f"home {allowed}"))
        left = allowed
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            build(dataset, SIDE, facts=facts)
        monkeypatch.setattr(os, "fsync", real)
        decoded.clear()
        folder = build(dataset, SIDE, facts=facts).path
        assert content(folder) == expected
        assert len(decoded) == max(0, 18 - 4 * allowed)
        assert not list(folder.parent.glob(".*.building"))
