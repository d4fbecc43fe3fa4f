"""An archive from elsewhere is unpacked only if it is what a result can be, and leaves nothing behind if it is not."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from medimg.backends import archive as archives
from medimg.backends.archive import extract
from medimg.errors import BackendError, StorageError

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


def unpack(content: bytes, target: Path, folder: str = "") -> None:
    """Unpacks an archive."""
    extract(io.BytesIO(content), target, name="s3://bucket/model.tar.gz", packed_bytes=len(content), folder=folder)


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
    with pytest.raises(BackendError, match="has no folder 'models'"):
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
    monkeypatch.setattr(archives, "MOST_FILES", 30)
    monkeypatch.setattr(archives, "MOST_HEADER", 1 << 16)
    good = [member("model/fine", b"1")]
    target = tmp_path / "deep" / "target"
    with pytest.raises(BackendError, match=r"model\.tar\.gz is damaged or no result"):
        unpack(packed([*good, *REFUSED[what]()]), target, folder)
    assert list(target.iterdir()) == []
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "target"}


def test_what_becomes_too_large_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its ratio, or by its bytes alone; text that compresses well is no bomb."""
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1_000_000)
    unpack(packed({"history.json": b"{}" * 450_000}), tmp_path / "text")
    bomb = packed({"bomb": bytes(20_000_000)}, 9)
    assert 20_000_000 / len(bomb) > 900
    with pytest.raises(BackendError, match="it becomes too large"):
        unpack(bomb, tmp_path / "bomb")
    assert list((tmp_path / "bomb").iterdir()) == []
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    with pytest.raises(BackendError, match="it becomes too large"):
        unpack(packed(CONTENT, 0), tmp_path / "large")


def test_an_archive_cut_off_anywhere_is_found_out(tmp_path: Path) -> None:
    """Its checksum comes last, so that one that ends between two files is not taken for whole."""
    content = packed({"a": b"1" * 700, "b": b"2" * 700, "c": b"3"})
    for length in range(len(content)):
        with pytest.raises(BackendError, match="is damaged"):
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
        except BackendError:
            refused += 1
            assert not any(target.iterdir())
        else:
            assert files(target) == expected
    assert refused > len(content) - 12


def test_files_that_were_there_stay(tmp_path: Path) -> None:
    """A failure removes what the archive brought, and nothing else; nothing is overwritten."""
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(BackendError, match="is damaged"):
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
