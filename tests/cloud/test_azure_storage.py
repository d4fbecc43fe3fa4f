"""What is kept in Blob Storage: sent once, whole or not at all, closed to the public, and read back as it was."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from broken_line import Proxy
from PIL import Image

from medimg.backends import transfer
from medimg.data import shards
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack, build
from medimg.data.transport import expand
from medimg.errors import (
    AccessError,
    BackendError,
    ConfigError,
    DatasetError,
    NotFoundError,
    StorageError,
    UnreachableError,
)
from medimg.progress import Event

pytest.importorskip("azure.ai.ml")

from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

from medimg.backends.azureml import blobs
from medimg.backends.azureml.storage import Storage
from medimg.backends.azureml.workspace import Workspace

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

WORKSPACE = "ws-storage"
SIDE = 24
BLOBS = r"\.blob\.core\.windows\.net/"


@pytest.fixture
def storage(subscription: AzureEmulator) -> Storage:
    """An empty storage of this module's own workspace."""
    return Workspace().storage


@pytest.fixture
def line(azure: AzureEmulator, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A line to Blob Storage that can be broken; the storage is opened, and has asked for no blob yet."""
    assert storage._container.container_name
    proxy = Proxy(azure.environment["HTTPS_PROXY"])
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a block and of a range, small enough for many."""
    for name in ("_SMALL_BYTES", "_BLOCK_BYTES", "_RANGE_BYTES"):
        monkeypatch.setattr(blobs, name, 64 << 10)
    return 64 << 10


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Twenty images in five shards."""
    monkeypatch.setattr(shards, "MOST_IN_SHARD", 4)
    for number in range(20):
        path = tmp_path / "images" / ("NORMAL" if number % 2 else "PNEUMONIA") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    dataset = Dataset.from_folder(tmp_path / "images")
    return build(dataset, SIDE, facts=dataset.index())


def written(azure: AzureEmulator) -> list[str]:
    """Returns the last parts of the names of the blobs that were written since the last mark, in order."""
    return [str(call["path"]).rpartition("/")[2] for call in azure.calls("PUT", BLOBS) if call["status"] == 201]


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- the pack ---------------------------------------------------------------------------------------------------------


def test_a_pack_arrives_in_the_container_and_becomes_the_same_pack(
    storage: Storage, pack: Pack, tmp_path: Path
) -> None:
    """Byte for byte; its address names its content."""
    uri = storage.upload_pack(pack.path, pack.manifest)
    assert uri == f"azureml://datastores/workspaceblobstore/paths/medimg/packs/{pack.path.name}/"
    storage.download_folder(f"packs/{pack.path.name}/", tmp_path / "there")
    expand(tmp_path / "there", tmp_path / "arrived", pack.manifest)
    assert content(tmp_path / "arrived") == content(pack.path)


def test_a_second_upload_sends_no_byte(azure: AzureEmulator, storage: Storage, pack: Pack) -> None:
    """Its one request is a listing; the bar is full at once."""
    storage.upload_pack(pack.path, pack.manifest)
    azure.mark()
    events: list[Event] = []
    storage.upload_pack(pack.path, pack.manifest, events.append)
    assert [(call["method"], call["bytes_sent"]) for call in azure.calls(path=BLOBS)] == [("GET", 0)]
    assert [(event.stage, event.done, event.total) for event in events] == [("uploading", 20, 20)]


def test_an_upload_that_was_ended_goes_on_where_it_was(
    azure: AzureEmulator, storage: Storage, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects that arrived are not sent again; until the last has arrived the pack's description is not there."""
    monkeypatch.setattr(transfer, "AT_ONCE", 2)
    azure.fault(method="PUT", path=r"images-00003", status=403, code="AuthorizationPermissionMismatch", times=None)
    with pytest.raises(AccessError, match="uploading the pack"):
        storage.upload_pack(pack.path, pack.manifest)
    azure.clear_faults()
    there = {key.rpartition("/")[2] for key in storage.list("packs/")}
    assert 3 <= len(there) < 7
    assert "pack.json" not in there
    azure.mark()
    storage.upload_pack(pack.path, pack.manifest)
    everything = {key.rpartition("/")[2] for key in storage.list("packs/")}
    assert sorted(written(azure)) == sorted(everything - there)
    assert written(azure)[-1] == "pack.json"


def test_a_damaged_pack_is_not_uploaded(storage: Storage, pack: Pack) -> None:
    """What is good of it may be there; the damaged shard and the description are not."""
    shard = pack.path / pack.facts["shards"][2]["file"]
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DatasetError, match=rf"{shard.name} is damaged"):
        storage.upload_pack(pack.path, pack.manifest)
    names = {key.rpartition("/")[2] for key in storage.list("packs/")}
    assert "pack.json" not in names
    assert not any(name.startswith("images-00002") for name in names)


def test_an_interrupt_ends_the_upload_at_once(storage: Storage, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way is given up, and no more is begun."""
    monkeypatch.setattr(transfer.Meter, "EVERY", 0.0)
    monkeypatch.setattr(transfer, "AT_ONCE", 1)

    def report(event: Event) -> None:
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.upload_pack(pack.path, pack.manifest, report)
    assert len(storage.list("packs/")) < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("storage")]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_again_only_when_it_has_changed(azure: AzureEmulator, storage: Storage, tmp_path: Path) -> None:
    """By its content; also where the length is the same."""
    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    azure.mark()
    assert storage.upload_file(path, "inputs/w/weights.h5") == storage.uri("inputs/w/weights.h5")
    storage.upload_file(path, "inputs/w/weights.h5")
    assert written(azure) == ["weights.h5"]
    path.write_bytes(b"two")
    storage.upload_file(path, "inputs/w/weights.h5")
    assert written(azure) == ["weights.h5"] * 2
    assert storage.get("inputs/w/weights.h5") == b"two"


def test_a_folder_arrives_with_its_folders(
    azure: AzureEmulator, storage: Storage, tmp_path: Path, small_parts: int
) -> None:
    """Empty files and large ones too, and with every name that a file can have."""
    sizes = {"a.json": 9, "deep/b.bin": small_parts, "deep/é ü%20.bin": 3 * small_parts + 1, "deep/er/empty": 0}
    for name, size in sizes.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(os.urandom(size))
    files = {f"inputs/m/{name}": tmp_path / "model" / name for name in sizes}
    storage.upload_files(files)
    assert list(storage.list("inputs/m/")) == sorted(files)
    storage.download_folder("inputs/m/", tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "model")
    azure.mark()
    storage.upload_files(files)
    assert written(azure) == []


@pytest.mark.parametrize("offset", [1_000, 70_000, 300_000, 480_000])
def test_of_a_large_file_at_most_one_block_is_sent_again_where_the_line_broke(
    storage: Storage, line: Proxy, tmp_path: Path, small_parts: int, offset: int
) -> None:
    """And the upload does not notice; the file arrives whole."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(500_000))
    line.breaks[:] = [offset]
    storage.upload_file(path, "inputs/large")
    assert line.breaks == []
    assert storage.get("inputs/large") == path.read_bytes()
    assert line.up < 500_000 + small_parts + 40_000, "of headers and encryption"


@pytest.mark.slow
def test_a_line_that_breaks_anywhere_costs_one_block_and_nothing_else(
    storage: Storage, line: Proxy, tmp_path: Path, small_parts: int
) -> None:
    """Twenty offsets over a whole upload."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(300_000))
    for offset in range(500, 300_500, 15_000):
        line.up, line.breaks[:] = 0, [offset]
        storage.upload_file(path, f"inputs/{offset}")
        assert line.breaks == [], "the line was broken"
        assert line.up < 300_000 + small_parts + 40_000, "of headers and encryption"
        assert storage.get(f"inputs/{offset}") == path.read_bytes()


def test_an_upload_that_was_killed_goes_on_from_the_blocks_that_are_there(
    azure: AzureEmulator, storage: Storage, tmp_path: Path, small_parts: int
) -> None:
    """Another process finds them by their content; a block that has changed meanwhile is sent anew."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(10 * small_parts))
    azure.fault(path=f"{BLOBS}.*large", status=403, code="AuthorizationPermissionMismatch", times=None)
    with pytest.raises(AccessError):
        storage.upload_file(path, "inputs/large")
    azure.clear_faults()
    blob = storage._container.get_blob_client(storage.key("inputs/large"))

    def told(sent: int, total: list[int] = [0]) -> None:  # noqa: B006 - a count
        total[0] += sent
        if total[0] > 6 * small_parts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), path.open("rb") as stream:
        storage._send("inputs/large", stream, path.stat().st_size, {}, told)
    assert len(blob.get_block_list("uncommitted")[1]) == 6
    changed = path.read_bytes()[:10] + b"x" + path.read_bytes()[11:]
    path.write_bytes(changed)
    azure.mark()
    Workspace().storage.upload_file(path, "inputs/large")
    sent = [call["bytes_sent"] for call in azure.calls("PUT", "inputs/large") if call["query"].get("comp") == "block"]
    assert sent == [small_parts] * 5, "the first, and the four that were missing"
    assert storage.get("inputs/large") == changed


def test_the_bar_counts_megabytes_and_tells_the_rate(
    storage: Storage, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never goes backwards, and ends where it should."""
    monkeypatch.setattr(transfer.Meter, "EVERY", 0.0)
    (tmp_path / "large").write_bytes(bytes(5_000_000))
    events: list[Event] = []
    storage.upload_file(tmp_path / "large", "inputs/large", events.append)
    storage.download_folder("inputs/", tmp_path / "back", events.append)
    for stage in ("uploading", "downloading"):
        told = [event for event in events if event.stage == stage]
        counts = [event.done for event in told]
        assert counts == sorted(counts)
        assert {*counts} == {*range(6)}
        assert {event.total for event in told} == {5}
        assert told[-1].message.endswith(" MB/s")


# -- small things -----------------------------------------------------------------------------------------------------


def test_a_blob_comes_back_as_it_was_written(storage: Storage) -> None:
    """One that begins with another's name is another."""
    value = json.dumps({"classes": ["NORMAL", "Lungenentzündung"], "n": 3, "none": None}, ensure_ascii=False).encode()
    assert storage.put("jobs/x/spec.json", value) == storage.uri("jobs/x/spec.json")
    storage.put("jobs/x/empty", b"")
    assert storage.get("jobs/x/spec.json") == value
    assert storage.get("jobs/x/empty") == b""
    assert storage.exists("jobs/x/spec.json")
    assert not storage.exists("jobs/x/spec")
    assert storage.sizes("jobs/") == {"jobs/x/empty": 0, "jobs/x/spec.json": len(value)}
    assert all(abs(written - time.time()) < 600 for written in storage.written("jobs/").values())
    address = storage.web_address("jobs/x")
    assert address == f"https://{storage._container.account_name}.blob.core.windows.net/" + (
        f"{storage._container.container_name}/medimg/jobs/x"
    )
    with pytest.raises(NotFoundError, match=r"jobs/y/spec\.json"):
        storage.get("jobs/y/spec.json")


def test_deleting_a_folder_leaves_its_neighbours(storage: Storage) -> None:
    """Nothing can delete everything by accident, and what is gone already is no error."""
    for number in range(12):
        storage.put(f"jobs/a/{number}", b"x")
    storage.put("jobs/ab/0", b"xy")
    assert storage.delete_prefix("jobs/a/") == 12
    assert storage.list() == ["jobs/ab/0"]
    assert storage.delete_prefix("jobs/a/") == 0
    for nothing in ("", "/"):
        with pytest.raises(ValueError, match="everything of ours"):
            storage.delete_prefix(nothing)


def test_two_prefixes_are_kept_apart(storage: Storage) -> None:
    """Also where one begins with the other."""
    other = Workspace(prefix="medimg-2").storage
    other.put("jobs/a", b"theirs")
    storage.put("jobs/a", b"ours")
    storage.delete_prefix("jobs/")
    assert storage.list() == []
    assert other.get("jobs/a") == b"theirs"


def test_of_any_number_that_claim_a_blob_one_has_it(storage: Storage) -> None:
    """And it holds what that one wrote."""
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda number: storage.claim("claims/one", b"%d" % number), range(20)))
    assert won.count(True) == 1
    assert storage.get("claims/one") == b"%d" % won.index(True)
    assert not storage.claim("claims/one", b"late")


@pytest.mark.parametrize("status", [503, 0])
def test_a_claim_whose_answer_was_lost_is_known_for_ours(azure: AzureEmulator, storage: Storage, status: int) -> None:
    """The repeated request meets what the first one wrote; somebody else's with the same content is not ours."""
    storage.exists("nothing")
    azure.fault(method="PUT", path="claims/one", status=status, code="ServerBusy", after=True)
    assert storage.claim("claims/one", b"same")
    assert [call["status"] for call in azure.calls("PUT", "claims/one")][-2:] == [status, 409]
    assert not storage.claim("claims/one", b"same")
    _, etag = storage.get_with_etag("claims/one")
    azure.fault(method="PUT", path="claims/one", status=status, code="ServerBusy", after=True)
    assert storage.replace("claims/one", b"other", etag)
    assert storage.get("claims/one") == b"other"


def test_of_two_that_replace_a_blob_one_does(storage: Storage) -> None:
    """Nobody overwrites what they have not read; what was deleted is not made again."""
    storage.put("endpoints/e.json", b"0")
    _, etag = storage.get_with_etag("endpoints/e.json")
    assert storage.replace("endpoints/e.json", b"1", etag)
    assert not storage.replace("endpoints/e.json", b"2", etag)
    content, etag = storage.get_with_etag("endpoints/e.json")
    assert content == b"1"
    storage.delete_prefix("endpoints/e.json")
    assert not storage.replace("endpoints/e.json", b"3", etag)
    assert not storage.exists("endpoints/e.json")


@pytest.mark.slow
def test_where_a_third_of_the_requests_fails_all_is_done(azure: AzureEmulator, storage: Storage) -> None:
    """Refused for being too many, failed within, and without an answer."""
    for status, code in ((503, "ServerBusy"), (500, "InternalError"), (0, "")):
        azure.fault(path=BLOBS, status=status, code=code, times=None, probability=0.12)

    def work(number: int) -> bool:
        claimed = storage.claim(f"claims/{number % 5}", b"x")
        storage.put(f"jobs/{number}", b"%d" % number)
        assert storage.get(f"jobs/{number}") == b"%d" % number
        return claimed

    with ThreadPoolExecutor(10) as pool:
        claimed = list(pool.map(work, range(10)))
    azure.clear_faults()
    assert claimed.count(True) == 5
    assert len(storage.list("jobs/")) == 10


@pytest.mark.parametrize(("status", "said"), [(503, "Azure is busy"), (0, "Azure did not answer")])
def test_where_every_request_fails_nothing_is_guessed(
    azure: AzureEmulator, storage: Storage, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    """After the last attempt, whatever was asked."""
    monkeypatch.setattr(blobs, "_ATTEMPTS", 1)
    storage.put("k", b"1")
    other = Workspace().storage
    other.check_closed()
    azure.fault(path=BLOBS, status=status, code="ServerBusy", times=None)
    for ask in (
        lambda: other.get("k"), lambda: other.exists("k"), lambda: other.list(), lambda: other.put("k", b"2"),
        lambda: other.claim("k", b"2"), lambda: other.read_from("k", 0), lambda: other.delete_prefix("k"),
    ):  # fmt: skip
        with pytest.raises(UnreachableError, match=said):
            ask()
    azure.clear_faults()
    assert storage.get("k") == b"1"


# -- downloading ------------------------------------------------------------------------------------------------------


def test_a_jobs_result_is_downloaded_although_the_line_breaks(
    storage: Storage, line: Proxy, tmp_path: Path, small_parts: int
) -> None:
    """It is read on from where the line broke, also where it breaks more often than the library asks again."""
    expected = {"medimg.json": b"{}", "deep/weights": os.urandom(500_000)}
    for name, value in expected.items():
        storage.put(f"jobs/a/out/{name}", value)
    line.down[:] = [200_000, 30_000, 30_000, 30_000]
    storage.download_folder("jobs/a/out/", tmp_path / "out")
    assert line.down == []
    assert content(tmp_path / "out") == expected


def test_a_line_that_stays_broken_is_an_error_and_leaves_nothing(
    storage: Storage, line: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said about the job, and no half of its result stays."""
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    storage.put("jobs/a/out/big", os.urandom(500_000))
    found = storage.list("jobs/a/out/")
    line.down[:] = [100_000] * 40
    with pytest.raises(UnreachableError, match="the connection to Azure broke"):
        storage.download_folder("jobs/a/out/", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    line.down.clear()
    assert storage.list("jobs/a/out/") == found


def test_a_result_that_changes_meanwhile_is_not_mixed(
    storage: Storage, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one version and half of another would be neither."""
    storage.put("jobs/a/out/big", bytes(10 * small_parts))
    monkeypatch.setattr(transfer.Meter, "EVERY", 0.0)

    def report(event: Event) -> None:
        storage.put("jobs/a/out/big", b"1" * 10 * small_parts)

    with pytest.raises(BackendError, match="jobs/a/out"):
        storage.download_folder("jobs/a/out/", tmp_path / "out", report)
    assert content(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "names",
    [["/etc/passwd"], ["x\\..\\..\\escaped"], ["a/"], ["a", "a/b"], ["a/b", "a//b"]],
    ids=["absolute", "upwards", "without-name", "file-and-folder", "twice"],
)
def test_a_hostile_result_is_refused(storage: Storage, tmp_path: Path, names: list[str]) -> None:
    """Blobs may have names that no file below the folder can have."""
    storage.put("jobs/a/out/fine", b"1")
    for name in names:
        storage.put(f"jobs/a/out/{name}", b"2")
    with pytest.raises(BackendError, match="jobs/a/out/ is no result of a job, and was not used"):
        storage.download_folder("jobs/a/out/", tmp_path / "out")
    assert content(tmp_path) == {}


def test_what_a_mounted_folder_leaves_is_no_file(storage: Storage, tmp_path: Path) -> None:
    """Mounts write an empty blob for each folder."""
    storage.put("jobs/a/out/deep/b", b"1")
    for name in ("jobs/a/out", "jobs/a/out/deep"):
        storage._container.upload_blob(storage.key(name), b"", metadata={"hdi_isfolder": "true"})
    storage.download_folder("jobs/a/out/", tmp_path / "out")
    assert content(tmp_path / "out") == {"deep/b": b"1"}
    assert storage.delete_prefix("jobs/a/") == 3
    with pytest.raises(NotFoundError, match="there is nothing at"):
        storage.download_folder("jobs/a/out/", tmp_path / "again")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_a_storage_error(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is removed."""
    storage.put("jobs/a/out/big", bytes(500_000))
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.download_folder("jobs/a/out/", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_log_is_read_on_while_it_grows(storage: Storage, small_parts: int) -> None:
    """By key and by signed address; at its end there is nothing yet, and its signature is in no message."""
    log = storage._container.get_blob_client(storage.key("logs/std_log.txt"))
    with pytest.raises(NotFoundError):
        storage.read_from("logs/std_log.txt", 0)
    log.create_append_blob()
    assert storage.read_from("logs/std_log.txt", 0) == b""
    whole = b""
    for length in (10, small_parts, 2 * small_parts + 7):
        part = os.urandom(length)
        log.append_block(part)
        assert storage.read_from("logs/std_log.txt", len(whole)) == part
        whole += part
    assert storage.read_from("logs/std_log.txt", 0) == whole
    assert storage.read_from("logs/std_log.txt", len(whole)) == b""
    url = f"{log.url}?{signature(storage)}"
    assert storage.read_from(url, 10) == whole[10:]
    with pytest.raises(NotFoundError) as caught:
        storage.read_from(url.replace("std_log", "other"), 0)
    assert "sig=" not in str(caught.value)


def signature(storage: Storage) -> str:
    """Returns a shared access signature of the storage account."""
    return generate_account_sas(
        storage._container.account_name, storage._container.credential.account_key,
        ResourceTypes(container=True, object=True), AccountSasPermissions.from_string("rwdlc"),
        datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip


# -- the container ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ["container", "blob"])
def test_a_container_that_is_open_to_the_public_gets_nothing(
    azure: AzureEmulator, storage: Storage, pack: Pack, access: str
) -> None:
    """Before a byte is sent; the message has the command that closes it, after which all goes on."""
    storage._container.set_container_access_policy({}, public_access=access)
    azure.mark()
    for write in (
        lambda: storage.put("k", b"1"),
        lambda: storage.claim("k", b"1"),
        lambda: storage.upload_pack(pack.path, pack.manifest),
    ):
        with pytest.raises(ConfigError, match=r"az storage container set-permission --name .* --public-access off"):
            write()
    assert written(azure) == []
    storage._container.set_container_access_policy({}, public_access=None)
    storage.put("k", b"1")


def test_where_the_datastore_has_no_secret_the_login_itself_opens_it(storage: Storage, tmp_path: Path) -> None:
    """As in a workspace whose storage takes no keys; and with a shared access signature, which some have."""
    signed = signature(storage)
    about = {
        "datastoreType": "AzureBlob", "accountName": storage._container.account_name, "protocol": "https",
        "containerName": storage._container.container_name, "endpoint": "core.windows.net",
    }  # fmt: skip

    class Other(Workspace):
        def arm(self, method: str, id: str, *rest: Any, **options: Any) -> dict[str, Any]:
            if id.endswith("listSecrets"):
                assert kind == "Sas"
                return {"secretsType": "Sas", "sasToken": f"?{signed}"}
            return {"properties": {**about, "credentials": {"credentialsType": kind}}}

    for kind in ("None", "Sas"):
        other = Other().storage
        other.put(f"jobs/{kind}", b"1")
        assert storage.get(f"jobs/{kind}") == b"1"
        assert other.list("jobs/") == storage.list("jobs/")


def test_what_this_login_may_not_do_is_told_with_what_to_do(azure: AzureEmulator, storage: Storage) -> None:
    """For the secrets of the datastore as for the blobs."""
    azure.fault(path=BLOBS, status=403, code="AuthorizationPermissionMismatch", times=None)
    for ask in (
        lambda: storage.put("k", b"1"), lambda: storage.get("k"), lambda: storage.list(), lambda: storage.exists("k"),
        lambda: storage.delete_prefix("k"), lambda: storage.claim("k", b"1"),
    ):  # fmt: skip
        with pytest.raises(AccessError, match="medimg azure bootstrap"):
            ask()
    azure.fault(path="listSecrets", status=403, code="AuthorizationFailed", times=None)
    with pytest.raises(AccessError, match=r"opening the workspace's Blob Storage.*medimg azure bootstrap"):
        Workspace().storage.list()


def test_without_a_workspace_the_way_to_one_is_told(storage: Storage) -> None:
    """Whatever was asked of it."""
    with pytest.raises(NotFoundError, match="opening the workspace's Blob Storage"):
        Workspace(workspace="there-is-none").storage.put("k", b"1")


def test_a_container_that_is_gone_is_no_lost_claim(storage: Storage) -> None:
    """False would mean that somebody else has it."""
    storage.put("k", b"1")
    storage._container.delete_container()
    with pytest.raises(NotFoundError):
        storage.claim("k", b"1")


def test_no_secret_is_in_what_is_shown(storage: Storage) -> None:
    """Of the account's key."""
    storage.put("k", b"1")
    key = storage._container.credential.account_key
    assert len(key) > 20
    assert key not in repr(storage) + repr(vars(storage))
