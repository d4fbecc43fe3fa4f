"""Public sets: the table of them, and one brought from a server to a dataset."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import logging
import re
import tarfile
import threading
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import FileServer, certificate, serving
from PIL import Image
from typer.testing import CliRunner

from medimg.cli import app
from medimg.data.dataset import Dataset
from medimg.data.public import acquisition
from medimg.data.public.acquisition import acquire
from medimg.data.public.catalogue import PublicSet, RemoteFile, catalogue, find
from medimg.errors import ArchiveError, DatasetError, DownloadError, MissingExtraError
from medimg.progress import Event

KEY = "0123456789abcdef-planted-key"


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue())
def test_every_set_is_complete_and_can_be_brought_as_it_says(name: str) -> None:
    """Its addresses are encrypted, its reader exists, its hosts have what they need, and who says so is named."""
    found = find(name)
    assert callable(getattr(Dataset, found.reader))
    assert list(found.classes) == sorted(set(found.classes)) or found.reader == "from_medmnist"
    assert len(set(found.classes)) == len(found.classes)
    assert sum(found.images.values()) > 100
    assert found.traps
    assert bool(found.files) == (found.host != "manual")
    assert (found.kaggle is not None) == (found.host == "kaggle")
    assert len({file.name for file in found.files}) == len(found.files)
    for file in found.files:
        assert file.url.startswith("https://")
        assert file.md5 or file.sha256 or "no hash" in file.source
        assert file.bytes is None or file.md5 or file.sha256, "an exact length without a hash may be somebody's guess"
    if found.kaggle is not None:
        assert [file.name for file in found.files] == [f"{found.kaggle.split('/')[1]}.zip"]
    if found.reads_file:
        assert len(found.files) == 1


def test_what_the_table_says_of_nih_is_what_nih_says() -> None:
    """Twelve archives of 45 GB, each with the MD5 of its FAQ; patients are in one split only."""
    found = find("nih-chest-xray14")
    archives = [file for file in found.files if file.name.endswith(".tar.gz")]
    assert [file.name for file in archives] == [f"images_{number:03d}.tar.gz" for number in range(1, 13)]
    assert len({file.md5 for file in archives}) == len({file.url for file in archives}) == 12
    assert sum(file.bytes or 0 for file in archives) == 45_079_862_784
    assert sum(found.images.values()) == 112_120


def test_an_unknown_name_suggests_the_nearest() -> None:
    """And says where all are listed."""
    with pytest.raises(DatasetError, match=r"Did you mean 'ham10000'\? See all: medimg download"):
        find("HAM1000")


# -- a set from a server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine."""
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Yields an encrypted server that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    monkeypatch.setattr(acquisition, "download", quick_download)
    with serving(trusted) as state:
        yield state


def quick_download(url: str, path: Path, **options: Any) -> None:
    """Downloads without pauses between attempts."""
    from medimg.download import download

    download(url, path, pause_s=0.001, **options)


def public_set(server: FileServer, files: Mapping[str, bytes], hashed: bool = True, **facts: Any) -> PublicSet:
    """Returns a set that a server has."""
    remote = tuple(
        RemoteFile(
            name=name,
            url=server.add(name, content),
            md5=hashlib.md5(content).hexdigest() if hashed else None,  # noqa: S324
            source="this test",
        )
        for name, content in files.items()
    )
    made = {
        "name": "made-up", "title": "A set", "host": "open", "page": "https://localhost/page", "licence": "CC BY 4.0",
        "task": "binary", "classes": ("NORMAL", "PNEUMONIA"), "images": {"train": 8}, "group": "the patient",
        "traps": (), "citation": "Somebody, 2020", "reader": "from_kermany", "files": remote, "source": "this test",
    }  # fmt: skip
    return PublicSet(**{**made, **facts})


def jpeg(seed: int) -> bytes:
    """Returns a small picture."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def films() -> dict[str, bytes]:
    """Returns what an archive of chest films holds."""
    names = [
        f"chest_xray/{split}/NORMAL/IM-{n:04d}-0001.jpeg" for split, n in (("train", 1), ("train", 2), ("test", 3))
    ]
    names += [f"chest_xray/train/PNEUMONIA/person{n}_virus_{n}.jpeg" for n in (1, 2)]
    names += ["chest_xray/test/PNEUMONIA/person3_bacteria_1.jpeg"]
    return {name: jpeg(seed) for seed, name in enumerate(names)}


def zipped(content: Mapping[str, bytes]) -> bytes:
    """Returns a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in content.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def tarred(content: Mapping[str, bytes]) -> bytes:
    """Returns a `tar.gz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def npz() -> bytes:
    """Returns a file as MedMNIST packs them."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        parts[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        parts[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)
    return buffer.getvalue()


def names(folder: Path) -> set[str]:
    """Returns what a user sees in a folder."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_set_in_a_zip_becomes_a_dataset_and_a_second_call_asks_nobody(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The archive is unpacked and removed; licence and citation are shown once."""
    chosen = public_set(server, {"films.zip": zipped(films())})
    monkeypatch.setitem(catalogue(), "made-up", chosen)  # type: ignore[index]
    first = Dataset.download("made-up", tmp_path / "new" / "films")
    said = capfd.readouterr().err
    assert first.splits == {"train": 4, "test": 2}
    assert names(tmp_path / "new" / "films") == {"films"}
    for text in ("CC BY 4.0", "Somebody, 2020", "downloading", "unpacking"):
        assert text in said
    asked = len(server.asked)
    second = Dataset.download("made-up", str(tmp_path / "new" / "films"))
    assert second.samples == first.samples
    assert len(server.asked) == asked == 1
    assert capfd.readouterr().err == ""


def test_a_set_of_a_table_and_several_archives_is_read_together(server: FileServer, tmp_path: Path) -> None:
    """As HAM10000 is: each archive goes into a folder of its own."""
    table = "lesion_id,image_id,dx,age,sex\n" + "".join(
        f"HAM_{number // 2},ISIC_{number:07d},{'mel' if number // 2 % 2 else 'nv'},50,male\n" for number in range(8)
    )
    parts = [{f"ISIC_{number:07d}.jpg": jpeg(number) for number in half} for half in (range(4), range(4, 8))]
    files = {"HAM10000_metadata.csv": table.encode(), "part_1.zip": zipped(parts[0]), "part_2.tar.gz": tarred(parts[1])}
    acquire(public_set(server, files, reader="from_isic"), tmp_path / "ham")
    assert names(tmp_path / "ham") == {"HAM10000_metadata.csv", "part_1", "part_2"}
    dataset = Dataset.from_isic(tmp_path / "ham")
    assert len(dataset) == 8
    assert len({sample.group for sample in dataset.samples}) == 4


def test_a_set_that_is_one_file_is_read_from_it(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MedMNIST's are, with their official splits."""
    chosen = public_set(server, {"pneumoniamnist.npz": npz()}, reader="from_medmnist", reads_file=True)
    monkeypatch.setitem(catalogue(), "made-up", chosen)  # type: ignore[index]
    dataset = Dataset.download("made-up", tmp_path / "set")
    assert dataset.splits == {"train": 8, "val": 4, "test": 4}
    assert dataset.classes == ("normal", "pneumonia")


def test_what_arrived_before_a_cut_or_a_kill_is_not_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    """Of a file its beginning; of a set its finished files; of a call that was killed what it had not yet recorded."""
    archives = {"a.zip": zipped({"a": b"1" * 999}), "b.tar.gz": tarred({"b": np.random.default_rng(0).bytes(9999)})}
    chosen, dest = public_set(server, archives), tmp_path / "set"
    acquire(chosen.model_copy(update={"files": chosen.files[:1]}), dest)
    server.cuts = 4
    with pytest.raises(DownloadError, match="call again"):
        acquire(chosen, dest)
    acquire(chosen, dest)
    assert [path for path, _, _ in server.asked].count("a.zip") == 1
    assert server.asked[-1][1] is not None
    asked = len(server.asked)
    for name, content in archives.items():
        (dest / name).write_bytes(content)  # killed after unpacking, before the archives are removed
    (dest / "a" / "a").unlink()
    (dest / "a").rmdir()  # and one of them before it was unpacked
    acquire(chosen, dest)
    assert len(server.asked) == asked
    assert names(dest) == {"a", "b"}


def test_a_file_that_differs_from_its_published_hash_is_an_error(server: FileServer, tmp_path: Path) -> None:
    """Nothing is left of it, not even the folder."""
    chosen = public_set(server, {"a.zip": zipped({"a": b"1"})})
    server.add("a.zip", zipped({"a": b"2"}))
    with pytest.raises(DownloadError, match=r"MD5 .* instead of"):
        acquire(chosen, tmp_path / "new" / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_user_that_is_not_the_published_one_is_refused_and_stays(
    server: FileServer, tmp_path: Path
) -> None:
    """Before anything is downloaded: by its hash, its length, what medimg wrote there before; and so are folders."""
    files = {"a.zip": zipped({"a": b"1"}), "table.csv": b"published"}
    chosen, dest = public_set(server, files), tmp_path / "set"
    dest.mkdir()
    (dest / "table.csv").write_text("my notes")
    with pytest.raises(DatasetError, match=r"table\.csv is not known to be the published .* the hash .* Move it away"):
        acquire(chosen, dest)
    sized = chosen.files[1].model_copy(update={"bytes": 9, "md5": None})
    with pytest.raises(DatasetError, match="8 bytes instead of 9"):
        acquire(chosen.model_copy(update={"files": (sized,)}), dest)
    assert [path.read_text() for path in dest.iterdir()] == ["my notes"]
    assert server.asked == []
    (dest / "table.csv").unlink()
    unhashed = public_set(server, files, hashed=False)
    acquire(unhashed, dest)
    (dest / "table.csv").write_text("published, and annotated")
    with pytest.raises(DatasetError, match=r"table\.csv is not known .* changed after its download"):
        acquire(unhashed, dest)
    assert (dest / "table.csv").read_text() == "published, and annotated"
    (dest / "table.csv").write_bytes(b"published")
    (dest / "a.zip").write_text("mine, beside what was unpacked")
    acquire(unhashed, dest)
    assert (dest / "a.zip").exists()
    (dest / "b").mkdir()
    more = public_set(server, {**files, "b.zip": zipped({"b": b"1"})}, hashed=False)
    with pytest.raises(DatasetError, match=r"b was not made by medimg\. Move it away"):
        acquire(more, dest)


@pytest.mark.parametrize("hashed", [True, False])
def test_what_the_user_downloaded_by_hand_is_used_and_stays(server: FileServer, tmp_path: Path, hashed: bool) -> None:
    """Where the machine has no internet; it is not the one that later downloads are compared with."""
    archive = zipped(films())
    chosen, dest = public_set(server, {"films.zip": archive}, hashed=hashed), tmp_path / "set"
    dest.mkdir()
    (dest / "films.zip").write_bytes(archive)
    events: list[Event] = []
    for _ in range(2):
        acquire(chosen, dest, report=events.append)
    assert server.asked == []
    assert (dest / "films.zip").read_bytes() == archive
    assert Dataset.from_kermany(dest).splits == {"train": 4, "test": 2}
    said = [event.message for event in events if "was there" in event.message]
    assert len(said) == 1
    assert ("unchecked" in said[0]) is not hashed
    assert acquisition._pins() == {}
    (dest / "films.zip").write_bytes(archive[:-30])
    (dest / ".medimg-download.json").unlink()
    (dest / "films").rename(tmp_path / "films")
    with pytest.raises((ArchiveError, DatasetError), match="Move it away"):
        acquire(chosen, dest)
    assert names(dest) == {"films.zip"}


def test_without_internet_the_error_says_what_to_put_where_and_leaves_nothing(tmp_path: Path) -> None:
    """As for weights."""
    file = RemoteFile(name="a.zip", url="https://127.0.0.1:1/file?id=1&download=1", source="this test")
    chosen = find("ham10000").model_copy(update={"files": (file,)})
    with pytest.raises(DownloadError) as caught:
        acquire(chosen, tmp_path / "new" / "set")
    assert f"curl -L -o a.zip '{file.url}'" in str(caught.value)
    assert f"put the file here:      {tmp_path / 'new' / 'set' / 'a.zip'}\n" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_published_hash_is_compared_with_its_first_download(
    server: FileServer, tmp_path: Path
) -> None:
    """Another one is refused with the way to accept it, which then is the one to compare with."""
    chosen = public_set(server, {"a.zip": zipped({"a": b"1"})}, hashed=False)
    acquire(chosen, tmp_path / "first")
    acquire(chosen, tmp_path / "again")
    server.add("a.zip", zipped({"a": b"2"}))
    with pytest.raises(DownloadError, match=r"another file than at its first download on 20\d\d-.*--accept-changed"):
        acquire(chosen, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()
    acquire(chosen, tmp_path / "changed", accept_changed=True)
    acquire(chosen, tmp_path / "later")
    assert (tmp_path / "later" / "a" / "a").read_bytes() == b"2"


def test_a_page_in_place_of_a_file_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    """Hosts answer 200 with a page where an address has moved; without a hash nothing else would tell."""
    chosen = public_set(server, {"table.csv": b"\n<!DOCTYPE html><html>Sign in</html>"}, hashed=False)
    with pytest.raises(DownloadError, match=r"a page in place of table\.csv. Open https://localhost/page"):
        acquire(chosen, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_an_archive_that_is_damaged_is_removed_and_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    """Where no hash was published, unpacking finds it out; it is not the one to compare with."""
    chosen = public_set(server, {"a.zip": zipped({"a": b"1" * 99})[:-30]}, hashed=False)
    with pytest.raises(ArchiveError, match="It was removed: call again"):
        acquire(chosen, tmp_path / "set")
    server.add("a.zip", zipped({"a": b"1" * 99}))
    acquire(chosen, tmp_path / "set")
    assert names(tmp_path / "set") == {"a"}


def test_a_folder_with_something_else_is_not_touched(server: FileServer, tmp_path: Path) -> None:
    """Neither the user's own nor another set's; a set under an agreement says where to ask."""
    chosen = public_set(server, {"a.zip": zipped({"a": b"1"})})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "unpacked" / "a").mkdir(parents=True)
    for folder, found in (("mine", "thesis.tex"), ("unpacked", "a")):
        with pytest.raises(DatasetError, match=rf"not empty \(it holds '{found}'\)"):
            acquire(chosen, tmp_path / folder)
    acquire(chosen, tmp_path / "set")
    with pytest.raises(DatasetError, match="holds made-up, not another"):
        acquire(chosen.model_copy(update={"name": "another"}), tmp_path / "set")
    (tmp_path / "set" / ".medimg-download.json").write_text("{")
    with pytest.raises(DatasetError, match="is damaged"):
        acquire(chosen, tmp_path / "set")
    with pytest.raises(DatasetError, match=r"sign for it themselves.*stanfordmlgroup.*Dataset\.from_csv"):
        acquire(find("chexpert"), tmp_path / "none")


# -- Kaggle -----------------------------------------------------------------------------------------------------------


class Kaggle:
    """As much of Kaggle as its package asks for a data set.

    Attributes:
        content: The archive.
        status: What it answers.
        asked: The authorisation of each request.
    """

    def __init__(self) -> None:
        self.content = zipped(films())
        self.status = 200
        self.asked: list[str | None] = []
        state = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                state.asked.append(self.headers.get("Authorization"))
                if state.status != 200 or self.path != "/v1/datasets.DatasetApiService/DownloadDataset":
                    # A server that repeats what it was sent, key and all.
                    message = f"{self.headers.get('Authorization')} {KEY}".encode()
                    self.send_response(state.status, message.decode())
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                assert wanted == {"ownerSlug": "owner", "datasetSlug": "films"}, wanted
                self.send_response(200)
                self.send_header("Content-Length", str(len(state.content)))
                self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
                self.end_headers()
                self.wfile.write(state.content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """Yields a stand-in for Kaggle at the address where its package asks, and plants a key."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / ".kaggle"))
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env

    state = Kaggle()
    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / ".kaggle" / "kaggle.json"))
    address = f"http://127.0.0.1:{state.http.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
    thread = threading.Thread(target=state.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.http.shutdown()
    state.http.server_close()
    thread.join()


def kaggle_set() -> PublicSet:
    """Returns a set on Kaggle."""
    file = RemoteFile(name="films.zip", url="https://www.kaggle.com/datasets/owner/films", source="no hash")
    facts = find("kermany-kaggle").model_dump() | {"name": "films", "kaggle": "owner/films", "files": (file,)}
    return PublicSet(**facts)


def test_a_set_on_kaggle_comes_with_the_users_key_which_is_shown_nowhere(
    kaggle: Kaggle, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Through Kaggle's own package; a second call asks nobody."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    for _ in range(2):
        acquire(kaggle_set(), tmp_path / "set", report=events.append)
    assert [base64.b64decode(str(asked).removeprefix("Basic ")) for asked in kaggle.asked] == [
        f"somebody:{KEY}".encode()
    ]
    assert Dataset.from_kermany(tmp_path / "set").splits == {"train": 4, "test": 2}
    assert names(tmp_path / "set") == {"films"}
    assert {event.stage for event in events if event.kind == "stage"} == {"downloading", "unpacking"}
    shown = "".join([*capfd.readouterr(), caplog.text, *(event.message for event in events)])
    assert KEY not in shown
    assert "kaggle.com/datasets/owner" not in shown  # its package prints; only our progress is shown
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, DatasetError, r"refused your key \(401\).*settings/api"),
        (403, DatasetError, r"does not let you have it \(403\).*accept its terms"),
        (404, DatasetError, r"Kaggle has no https://www.kaggle.com/datasets/owner/films"),
        (500, DownloadError, r"could not be fetched: Kaggle answered 500"),
    ],
)
def test_what_kaggle_refuses_is_said_without_the_key(
    kaggle: Kaggle,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    status: int,
    error: type[Exception],
    message: str,
) -> None:
    """Even where the answer repeats it: not in the message, and not in the traceback with all that led to it."""
    kaggle.status = status
    with pytest.raises(error, match=message) as caught:
        acquire(kaggle_set(), tmp_path / "set")
    shown = "".join([*traceback.format_exception(caught.value), *capfd.readouterr(), repr(caught.value)])
    basic = base64.b64encode(f"somebody:{KEY}".encode()).decode()
    assert KEY not in shown
    assert basic not in shown
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert ("then put the file here" in str(caught.value)) is (error is DownloadError)
    assert not (tmp_path / "set").exists()


def test_a_line_to_kaggle_that_breaks_is_said_without_the_key(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its package says of it."""

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError(f"line lost: headers Authorization: Basic c29tZWJvZHk= key {KEY} at https://host/a?signed=1")

    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "dataset_download_files", broken)
    with pytest.raises(DownloadError, match="could not be fetched: RuntimeError: line lost") as caught:
        acquire(kaggle_set(), tmp_path / "set")
    for secret in (KEY, "c29tZWJvZHk=", "signed=1"):
        assert secret not in "".join(traceback.format_exception(caught.value))


def test_without_a_key_for_kaggle_the_error_says_where_to_get_one(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Kaggle's package would print its own help and end the process."""
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(DatasetError, match=r"no key on this machine.*settings/api.*KAGGLE_USERNAME and KAGGLE_KEY"):
        acquire(kaggle_set(), tmp_path / "set")
    assert "Authentication required" not in "".join(capfd.readouterr())
    assert kaggle.asked == []


def test_without_kaggles_package_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for every extra."""
    monkeypatch.setitem(__import__("sys").modules, "kaggle", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medimg\[kaggle\]'"):
        acquire(kaggle_set(), tmp_path / "set")


# -- the commands -----------------------------------------------------------------------------------------------------


def says(*arguments: str | Path) -> tuple[int, str]:
    """Returns the status of a command and all that it said."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_the_command_lists_describes_and_downloads(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With licence and size before anything is fetched."""
    code, said = says("download")
    assert code == 0
    for line in (
        r"ham10000 .* 2\.8 GB +CC BY-NC 4\.0",
        r"pneumoniamnist\[-64\|-128\|-224\] ",
        r"chexpert .*by agreement",
    ):
        assert re.search(line, said)
    code, said = says("download", "ham10000")
    assert "4639bfa73ab251610530a97c898e6e46" in said
    assert "beware    10,015 images are of 7,470 lesions" in said
    monkeypatch.setitem(catalogue(), "made-up", public_set(server, {"films.zip": zipped(films())}))  # type: ignore[index]
    code, said = says("download", "made-up", tmp_path / "set")
    assert (code, said.splitlines()[-1]) == (0, f"{tmp_path / 'set'}: 6 images, 2 classes: NORMAL, PNEUMONIA")
    code, said = says("download", "made-down", tmp_path / "other")
    assert code == 1
    assert "error: the catalogue has no data set 'made-down'. Did you mean 'made-up'?" in said


def test_the_command_unpacks_an_archive(tmp_path: Path) -> None:
    """And refuses what nobody should unpack, with one line."""
    (tmp_path / "good.zip").write_bytes(zipped({"a/b": b"1"}))
    (tmp_path / "bad.zip").write_bytes(zipped({"../b": b"1"}))
    assert says("unpack", tmp_path / "good.zip", tmp_path / "good")[0] == 0
    assert (tmp_path / "good" / "a" / "b").read_bytes() == b"1"
    code, said = says("unpack", tmp_path / "bad.zip", tmp_path / "bad")
    assert code == 1
    assert "'../b' leads elsewhere" in said
