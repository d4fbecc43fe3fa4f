"""An archive from elsewhere is unpacked only if it is what a result can be, and leaves nothing behind if it is not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from medimg.archive import DATA, RESULT, Limits, extract, tape
from medimg.archive import unpack as archive_file
from medimg.errors import ArchiveError, StorageError
from medimg.progress import Event

SHARED = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

CONTENT = {"model/medimg.json": b"{}", "model/exports/saved_model/1/a.pb": bytes(range(256)) * 900, "empty": b""}


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[object, bytes]:
    """Returns one member."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def packed(
    members: list[tuple[object, bytes]] | Mapping[str, bytes], level: int = 6, version: int = tarfile.GNU_FORMAT
) -> bytes:
    """Returns a `tar.gz`."""
    if isinstance(members, Mapping):
        members = [member(name, content) for name, content in members.items()]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=version) as archive:
        for info, content in members:
            assert isinstance(info, tarfile.TarInfo)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), level, mtime=0)


def unpack(content: bytes, target: Path, folder: str = "", limits: Limits = RESULT) -> None:
    """Unpacks an archive of a cloud."""
    extract(
        io.BytesIO(content), target, name="s3://bucket/model.tar.gz", packed_bytes=len(content), folder=folder,
        limits=limits,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """Returns what is in a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("version", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_gives_its_files(tmp_path: Path, version: int) -> None:
    """In each of tar's formats, with folders, empty files and names of any length."""
    long = "model/" + "/".join(["a folder with a long name"] * 5) + "/é.bin"
    if version != tarfile.USTAR_FORMAT:
        long = long.replace("a folder", "a folder" * 5)
    content = CONTENT | {long: b"deep"}
    folders = [member("model", kind=tarfile.DIRTYPE), member("./nothing/", kind=tarfile.DIRTYPE)]
    unpack(packed([*folders, *(member(f"./{n}", c) for n, c in content.items())], version=version), tmp_path / "new")
    assert files(tmp_path / "new") == content
    assert (tmp_path / "new" / "nothing").is_dir()


def test_one_folder_is_taken_without_its_name(tmp_path: Path) -> None:
    """The rest of a served archive is code; a folder that is not there is an error."""
    unpack(packed(CONTENT), tmp_path, "model")
    assert set(files(tmp_path)) == {"medimg.json", "exports/saved_model/1/a.pb"}
    with pytest.raises(ArchiveError, match="has no folder 'models'"):
        unpack(packed(CONTENT), tmp_path / "other", "models")


REFUSED: dict[str, Callable[[], list[tuple[object, bytes]]]] = {
    "a symbolic link": lambda: [member("a", kind=tarfile.SYMTYPE, link="b")],
    "a link out": lambda: [member("a", kind=tarfile.SYMTYPE, link="/etc"), member("a/x", b"1")],
    "a hard link": lambda: [member("a", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "a device": lambda: [member("a", kind=tarfile.CHRTYPE)],
    "a block device": lambda: [member("a", kind=tarfile.BLKTYPE)],
    "a pipe": lambda: [member("a", kind=tarfile.FIFOTYPE)],
    "an absolute name": lambda: [member("/escaped", b"1")],
    "a name upwards": lambda: [member("model/../../escaped", b"1")],
    "a name upwards as a folder": lambda: [member("../escaped", kind=tarfile.DIRTYPE)],
    "a Windows name": lambda: [member("..\\escaped", b"1")],
    "a drive": lambda: [member("C:escaped", b"1")],
    "two names that some disks take for one": lambda: [member("model/B", b"1"), member("model/b", b"2")],
    "two ways to store an accent": lambda: [member("model/\u00e9", b"1"), member("model/e\u0301", b"2")],
    "no name": lambda: [member(".", b"1")],
    "a name twice": lambda: [member("model/a", b"1"), member("./model/a", b"2")],
    "a file that is a folder": lambda: [member("model/a", b"1"), member("model/a/b", b"2")],
    "a folder that is a file": lambda: [member("model/a/b", b"2"), member("model/a", b"1")],
    "too many": lambda: [member(f"f{number}") for number in range(31)],
    "a name that fills the memory": lambda: [member("././@LongLink", b"n" * 70_000, tarfile.GNUTYPE_LONGNAME)],
    "facts that fill the memory": lambda: [member("x", b"f" * 70_000, tarfile.XHDTYPE)],
    "an unknown kind": lambda: [member("a", b"1", b"Z")],
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(REFUSED))
@pytest.mark.parametrize("folder", ["", "model"])
def test_what_no_result_holds_refuses_the_whole_archive(
    tmp_path: Path, what: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it lies beside the folder that is wanted; nothing is left, in the target or outside."""
    monkeypatch.setattr(tape, "_MOST_HEADER", 1 << 16)
    good = [member("model/fine", b"1")]
    target = tmp_path / "deep" / "target"
    with pytest.raises(ArchiveError, match=r"model\.tar\.gz is damaged or refused"):
        unpack(packed([*good, *REFUSED[what]()]), target, folder, replace(RESULT, files=30))
    assert list(target.iterdir()) == []
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "target"}


def test_what_becomes_too_large_is_left(tmp_path: Path) -> None:
    """By its ratio, or by its bytes alone; text that compresses well is no bomb."""
    strict = replace(RESULT, always=1_000_000)
    unpack(packed({"history.json": b"{}" * 450_000}), tmp_path / "text", limits=strict)
    bomb = packed({"bomb": bytes(20_000_000)}, 9)
    assert 20_000_000 / len(bomb) > 900
    most = (
        rf"too large: [\d,]+ bytes or more, and an archive of {len(bomb):,} bytes may become {200 * len(bomb):,} bytes"
    )
    with pytest.raises(ArchiveError, match=most):
        unpack(bomb, tmp_path / "bomb", limits=strict)
    assert list((tmp_path / "bomb").iterdir()) == []
    with pytest.raises(ArchiveError, match="it becomes too large"):
        unpack(packed(CONTENT, 0), tmp_path / "large", limits=replace(RESULT, bytes=100_000))


def test_an_archive_cut_off_anywhere_is_found_out(tmp_path: Path) -> None:
    """Its checksum comes last, so that one that ends between two files is not taken for whole."""
    content = packed({"a": b"1" * 700, "b": b"2" * 700, "c": b"3"})
    for length in range(len(content)):
        with pytest.raises(ArchiveError, match="is damaged"):
            unpack(content[:length], tmp_path / str(length))
        assert not any((tmp_path / str(length)).iterdir())


def test_an_altered_byte_never_gives_other_files(tmp_path: Path) -> None:
    """Each byte of it in turn: an error, or (in gzip's own header) the same files."""
    expected = {"a": b"1" * 700, "b": b"2" * 700}
    content = packed(expected)
    refused = 0
    for place in range(len(content)):
        target = tmp_path / str(place)
        try:
            unpack(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :], target)
        except ArchiveError:
            refused += 1
            assert not any(target.iterdir())
        else:
            assert files(target) == expected
    assert refused > len(content) - 12


def test_files_that_were_there_stay(tmp_path: Path) -> None:
    """A failure removes what the archive brought, and nothing else; nothing is overwritten."""
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(packed({"other": b"1", "mine/x": b"2"}), tmp_path)
    assert files(tmp_path) == {"mine": b"mine"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was written is removed."""
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="the disk is full"):
        unpack(packed(CONTENT), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


# -- archives of data: zip and tar ------------------------------------------------------------------------------------

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda content: content,
    "gz": lambda content: gzip.compress(content, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def entry(name: str, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    """Returns the description of a zip's member."""
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    info.flag_bits = flags
    return info


def zipped(
    members: Mapping[str, bytes] | list[tuple[zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """Returns a zip archive."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # a duplicate name is what some tests want
        for name, content in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(name, content, method)
    return buffer.getvalue()


def unpacked(folder: Path, content: bytes, **options: object) -> Path:
    """Unpacks an archive of data in a folder; returns where to."""
    (folder / "archive").write_bytes(content)
    target = folder / "target"
    archive_file(folder / "archive", target, **options)  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize("packing", ["tar", "gz", "zip"])
def test_an_archive_that_packs_each_file_twice_gives_it_once(tmp_path: Path, packing: str) -> None:
    """As Kaggle's copy of HAM10000; what differs in its first, its last or one more byte refuses the whole archive."""

    def archive(second: bytes) -> bytes:
        content = {"Part_1/a.jpg": b"123", "Part_1/b.jpg": b"", "part_1/A.jpg": second, "part_1/b.jpg": b""}
        return zipped(content) if packing == "zip" else PACKINGS[packing](gzip.decompress(packed(content)))

    assert files(unpacked(tmp_path, archive(b"123"))) == {"Part_1/a.jpg": b"123", "Part_1/b.jpg": b""}
    shutil.rmtree(tmp_path / "target")
    for other in (b"023", b"124", b"1234", b"12", b""):
        with pytest.raises(ArchiveError, match=r"'part_1/A\.jpg' is in it twice .*, with two contents"):
            unpacked(tmp_path, archive(other))
    assert {path.name for path in tmp_path.iterdir()} == {"archive"}


@pytest.mark.parametrize("packing", [*PACKINGS, "zip", "zip stored", "zip bzip2", "zip lzma"])
def test_an_archive_of_any_kind_gives_its_files_whatever_it_is_called(tmp_path: Path, packing: str) -> None:
    """With progress in megabytes; what comes out is no program."""
    content = CONTENT | {"a/" * 60 + "é.bin": b"deep", "large": bytes(3_000_000)}
    if packing.startswith("zip"):
        method = {"stored": 0, "bzip2": 12, "lzma": 14}.get(packing[4:], 8)
        archive = zipped([(entry(name, 0o100755), body) for name, body in content.items()], method)
    else:
        archive = PACKINGS[packing](gzip.decompress(packed(content)))
    events: list[Event] = []
    target = unpacked(tmp_path, archive, report=events.append)
    assert files(target) == content
    assert not any(path.stat().st_mode & 0o111 for path in target.rglob("*") if path.is_file())
    assert {event.stage for event in events} == {"unpacking"}
    assert events[-1].done == events[-1].total >= 1
    assert len({event.done for event in events}) == len(events)
    assert {event.message for event in events} == {"archive, in MB"}
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "target"}


def test_several_packed_streams_one_after_another_are_one(tmp_path: Path) -> None:
    """As parallel packers write them, with xz's padding between."""
    plain = gzip.decompress(packed(CONTENT))
    for number, pack in enumerate((bz2.compress, lzma.compress)):
        (tmp_path / str(number)).mkdir()
        halves = pack(plain[:5000]) + (b"\0" * 8 if pack is lzma.compress else b"") + pack(plain[5000:])
        assert files(unpacked(tmp_path / str(number), halves)) == CONTENT


def overlapping() -> bytes:
    """Returns a zip of which two members share their bytes."""
    content = bytearray(zipped({"a": bytes(100), "b": bytes(100)}))
    first, second = (match.start() for match in re.finditer(b"PK\x01\x02", content))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return bytes(content)


def quoting() -> bytes:
    """Returns a zip of which one member's bytes are the next member with its header, as in the bombs of 2019."""
    content = bytearray(zipped({"a": bytes(100), "b": bytes(100)}, zipfile.ZIP_STORED))
    listed = content.index(b"PK\x01\x02")
    for place in (18, 22, listed + 20, listed + 24):
        content[place : place + 4] = struct.pack("<L", 150)
    return bytes(content)


def many_in_the_list() -> bytes:
    """Returns a zip whose end says that its list of members is longer than memory."""
    content = bytearray(zipped({"a": b"1"}))
    content[-10:-6] = struct.pack("<L", 1 << 31)
    return bytes(content)


REFUSED_ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a symbolic link": (lambda: zipped([(entry("a", 0o120777), b"/etc/passwd")]), "neither a file nor"),
    "a device": (lambda: zipped([(entry("a", 0o020666), b"")]), "neither a file nor"),
    "an absolute name": (lambda: zipped({"/escaped": b"1"}), "leads elsewhere"),
    "a name upwards": (lambda: zipped({"a/../../escaped": b"1"}), "leads elsewhere"),
    "a Windows name": (lambda: zipped([(entry("..\\escaped"), b"1")]), "leads elsewhere"),
    "a drive": (lambda: zipped({"C:/escaped": b"1"}), "leads elsewhere"),
    "a name twice": (lambda: zipped([(entry("a"), b"1"), (entry("./a"), b"2")]), "is in it twice"),
    "two names that some disks take for one": (lambda: zipped({"a/B": b"1", "A/b": b"2"}), "is in it twice"),
    "a file that is a folder": (lambda: zipped({"a": b"1", "a/b": b"2"}), "is in it twice"),
    "an encrypted member": (lambda: flagged(1), "is encrypted"),
    "members that share their bytes": (overlapping, "shares its bytes"),
    "a member that quotes the next": (quoting, "shares its bytes"),
    "too many": (lambda: zipped({str(number): b"" for number in range(31)}), "more than 30 members"),
    "a list that fills the memory": (many_in_the_list, "list of its members has 2,147,483,648 bytes"),
    "a bomb": (lambda: zipped({"bomb": bytes(20_000_000)}), "too large: 20,000,000 bytes, .* may become [0-9,]+ bytes"),
    "nothing in it": (lambda: zipped({}), "it is empty"),
    "a damaged member": (lambda: zipped({"a": b"content" * 9}, 0).replace(b"content", b"CONTENT", 1), "Bad CRC"),
    "an unknown packing": (lambda: method(99), "compression"),
    "no list": (lambda: zipped({"a": b"1"})[:-22], "no list of members"),
}  # fmt: skip


def flagged(flags: int) -> bytes:
    """Returns a zip whose member says that it is packed in a special way."""
    content = bytearray(zipped({"a": b"1"}))
    listed = content.index(b"PK\x01\x02")
    content[listed + 8] |= flags
    content[6] |= flags
    return bytes(content)


def method(number: int) -> bytes:
    """Returns a zip packed by a method that nobody knows."""
    content = bytearray(zipped({"a": b"1"}))
    content[content.index(b"PK\x01\x02") + 10] = content[8] = number
    return bytes(content)


@pytest.mark.parametrize("what", REFUSED_ZIPS)
def test_a_zip_that_nobody_should_unpack_is_refused_whole(tmp_path: Path, what: str) -> None:
    """Nothing is left, neither at the target nor outside."""
    make, why = REFUSED_ZIPS[what]
    with pytest.raises(ArchiveError, match=why):
        unpacked(tmp_path, make(), limits=replace(DATA, files=30, always=1_000_000))
    assert {path.name for path in tmp_path.rglob("*")} == {"archive"}


@pytest.mark.parametrize("packing", [*PACKINGS, "zip"])
def test_an_archive_of_data_cut_off_anywhere_is_found_out(tmp_path: Path, packing: str) -> None:
    """No half folder is left. Of a plain tar the end is padding, which may be missing."""
    content = {"a": b"1" * 700, "b": b"2" * 700}
    archive = zipped(content) if packing == "zip" else PACKINGS[packing](gzip.decompress(packed(content)))
    for length in range(0, len(archive) if packing != "tar" else 3000, 7):
        with pytest.raises(ArchiveError):
            unpacked(tmp_path, archive[:length])
        assert {path.name for path in tmp_path.rglob("*")} == {"archive"}


def test_an_altered_byte_of_a_zip_never_gives_other_content(tmp_path: Path) -> None:
    """Each byte in turn: an error, or the same content (a name or a time may differ)."""
    content = zipped({"a": b"1" * 700, "b": bytes(range(256))})
    refused = 0
    for place in range(len(content)):
        try:
            target = unpacked(tmp_path, content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        except ArchiveError:
            refused += 1
        else:
            assert sorted(files(target).values()) == [bytes(range(256)), b"1" * 700]
            shutil.rmtree(target)
    assert refused > len(content) / 2


def test_what_is_no_archive_and_a_target_that_exists_are_errors(tmp_path: Path) -> None:
    """With what to do; an existing folder is not touched. What a killed attempt left is no obstacle."""
    with pytest.raises(ArchiveError, match="no zip or tar archive"):
        unpacked(tmp_path, b"Rar!\x1a\x07 and so on")
    with pytest.raises(ArchiveError, match="there is no file"):
        archive_file(tmp_path / "nothing", tmp_path / "target")
    (tmp_path / ".target.unpacking").mkdir()
    (tmp_path / ".target.unpacking" / "half").write_bytes(b"half")
    assert files(unpacked(tmp_path, zipped({"a": b"1"}))) == {"a": b"1"}
    with pytest.raises(ArchiveError, match="exists already"):
        unpacked(tmp_path, zipped({"b": b"2"}))
    assert files(tmp_path / "target") == {"a": b"1"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("packing", ["gz", "zip"])
def test_a_disk_that_becomes_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    """And says how to go elsewhere."""
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(path, mode, *rest, **options)  # type: ignore[call-overload]

    archive = zipped(CONTENT) if packing == "zip" else packed(CONTENT)
    (tmp_path / "archive").write_bytes(archive)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"the disk is full.*or unpack it to a folder on a larger disk"):
        archive_file(tmp_path / "archive", tmp_path / "target")
    assert {path.name for path in tmp_path.rglob("*")} == {"archive"}


def test_a_zip_that_says_it_needs_more_than_the_disk_has_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of members states the sizes."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(StorageError, match="GB free"):
        unpacked(tmp_path, zipped({"a": bytes(1000)}))


def test_go_fuzz_corpus_of_archives_gives_files_or_a_typed_refusal(tmp_path: Path) -> None:
    """Public files that have broken readers of archives."""
    corpus = SHARED / "corpora" / "gofuzz-archives"
    if not corpus.is_dir():
        pytest.skip(f"no corpus at {corpus}: set MEDIMG_SHARED_DATA")
    outcomes = {"unpacked": 0, "refused": 0}
    for number, path in enumerate(sorted(path for path in corpus.rglob("*") if path.is_file())):
        try:
            archive_file(path, tmp_path / str(number))
            outcomes["unpacked"] += 1
        except ArchiveError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > outcomes["unpacked"] > 0
    assert sum(1 for _ in tmp_path.iterdir()) == outcomes["unpacked"]
