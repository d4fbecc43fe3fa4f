"""What is kept in a bucket: sent once, whole or not at all, closed to the public, and read back as it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from broken_line import Proxy
from PIL import Image
from urllib3 import HTTPResponse

from medimg.backends import transfer
from medimg.backends.sagemaker import storage as storages
from medimg.backends.sagemaker.storage import Storage
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

REGION = "eu-central-1"
OWNER = "123456789012"
KEY = f"arn:aws:kms:{REGION}:{OWNER}:key/11111111-2222-3333-4444-555555555555"
SIDE = 24


def client(environment: Mapping[str, str], *, url: str | None = None, attempts: int = 6, region: str = REGION) -> Any:
    """Returns a client of the server, with retries as the backend's."""
    return boto3.client(
        "s3", endpoint_url=url or environment["AWS_ENDPOINT_URL"], region_name=region,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"mode": "standard", "total_max_attempts": attempts}, max_pool_connections=32),
    )  # fmt: skip


@pytest.fixture
def s3(aws: Any) -> Any:
    """A plain client."""
    return client(aws.environment)


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """The name of a bucket of this test's own, which does not exist yet."""
    return f"medimg-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}-{os.getpid()}"


@pytest.fixture
def storage(s3: Any, bucket: str) -> Storage:
    """An empty storage."""
    found = Storage(s3, bucket, "team/medimg", owner=OWNER)
    found.ensure_bucket(True, [{"Key": "medimg", "Value": "team/medimg"}])
    return found


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Twenty images in five shards."""
    monkeypatch.setattr(shards, "MOST_IN_SHARD", 4)
    for number in range(20):
        path = tmp_path / "images" / ("NORMAL" if number % 2 else "PNEUMONIA") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    return packed(tmp_path)


def packed(folder: Path) -> Pack:
    """Packs the images of a test."""
    dataset = Dataset.from_folder(folder / "images")
    return build(dataset, SIDE, facts=dataset.index())


class Sent:
    """Counts what a client sends: requests that write, and the bytes in them."""

    def __init__(self, of: Any) -> None:
        self.requests: list[tuple[str, int]] = []
        of.meta.events.register("before-send.s3", self)

    def __call__(self, request: Any, **_: Any) -> None:
        """Counts one request."""
        if request.method in ("PUT", "POST") and "?delete" not in request.url:
            length = int(request.headers.get("Content-Length", 0))
            self.requests.append((request.url.rpartition("/")[2], length))

    @property
    def names(self) -> list[str]:
        """The last parts of the keys."""
        return [name for name, _ in self.requests]

    @property
    def bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(length for _, length in self.requests)


@pytest.fixture
def proxy(aws: Any) -> Iterator[Proxy]:
    """A line that can be broken."""
    line = Proxy(aws.environment["AWS_ENDPOINT_URL"])
    yield line
    line.close()


def through(proxy: Proxy, aws: Any, bucket: str, attempts: int = 6) -> Storage:
    """Returns the same storage, reached over a line that breaks."""
    return Storage(client(aws.environment, url=proxy.url, attempts=attempts), bucket, "team/medimg", owner=OWNER)


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fetch(storage: Storage, prefix: str, target: Path) -> None:
    """Writes every object of a folder into a folder."""
    for key in storage.list(prefix):
        path = target / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.get(key))


# -- the pack ---------------------------------------------------------------------------------------------------------


def test_a_pack_arrives_in_the_bucket_and_becomes_the_same_pack(storage: Storage, pack: Pack, tmp_path: Path) -> None:
    """Byte for byte; its address names its content."""
    uri = storage.upload_pack(pack.path, pack.manifest)
    assert uri == f"s3://{storage.bucket}/team/medimg/packs/{pack.path.name}/"
    fetch(storage, f"packs/{pack.path.name}/", tmp_path / "there")
    expand(tmp_path / "there", tmp_path / "arrived", pack.manifest)
    assert content(tmp_path / "arrived") == content(pack.path)


def test_a_second_upload_sends_no_byte(storage: Storage, s3: Any, pack: Pack) -> None:
    """Its one request is a listing; the bar is full at once."""
    storage.upload_pack(pack.path, pack.manifest)
    sent, events = Sent(s3), list[Event]()
    storage.upload_pack(pack.path, pack.manifest, events.append)
    assert sent.requests == []
    assert [(event.stage, event.done, event.total) for event in events] == [("uploading", 20, 20)]


def test_other_names_of_the_same_images_send_only_their_manifest(
    storage: Storage, s3: Any, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels are known by their content, not by who owns the ids."""
    storage.upload_pack(pack.path, pack.manifest)
    sent = Sent(s3)
    monkeypatch.setenv("MEDIMG_SALT", "another")
    other = packed(tmp_path)
    assert other.path == pack.path
    storage.upload_pack(other.path, other.manifest)
    assert sent.names == [other.manifest]


def test_an_upload_that_was_ended_goes_on_where_it_was(
    aws: Any, storage: Storage, s3: Any, proxy: Proxy, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects that arrived are not sent again; until the last has arrived the pack's description is not there."""
    monkeypatch.setattr(transfer, "AT_ONCE", 2)  # of many at once none might be whole
    proxy.most = 12_000  # of 20 kB: a shard is 2.3 kB and 1 kB of headers
    with pytest.raises(UnreachableError, match="uploading the pack: AWS did not answer"):
        through(proxy, aws, storage.bucket, attempts=1).upload_pack(pack.path, pack.manifest)
    folder = f"packs/{pack.path.name}/"
    # As the second upload finds it: the server may still be at work on an object whose line has broken.
    there: set[str] = set()
    s3.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: there.update(each["Key"].rpartition("/")[2] for each in parsed.get("Contents", ())),
    )
    sent = Sent(s3)
    storage.upload_pack(pack.path, pack.manifest)
    found = set(there)
    assert 0 < len(found) < 7
    assert "pack.json" not in found
    assert sorted(sent.names) == sorted({key.removeprefix(folder) for key in storage.list(folder)} - found)
    assert sent.names[-1] == "pack.json"


@pytest.mark.slow
def test_a_line_that_breaks_anywhere_costs_one_object_and_nothing_else(
    aws: Any, storage: Storage, proxy: Proxy, pack: Pack, tmp_path: Path
) -> None:
    """Twenty offsets over a whole upload: no error, nothing is there twice or half, one request is repeated."""
    through(proxy, aws, storage.bucket).upload_pack(pack.path, pack.manifest)
    folder = f"packs/{pack.path.name}/"
    expected = {key: storage.get(key) for key in storage.list(folder)}
    undisturbed, largest = proxy.up, max(map(len, expected.values()))
    for offset in range(0, 3_000, 150):
        storage.delete_prefix(folder)
        proxy.up, proxy.breaks = 0, [offset]
        through(proxy, aws, storage.bucket).upload_pack(pack.path, pack.manifest)
        assert proxy.breaks == [], "the line was broken"
        assert {key: storage.get(key) for key in storage.list(folder)} == expected
        assert proxy.up <= undisturbed + largest + 4_000, "of headers"


def test_the_bar_counts_images_and_tells_the_rate(
    storage: Storage, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never goes backwards, and ends where it should."""
    monkeypatch.setattr(transfer.Meter, "EVERY", 0.0)
    events: list[Event] = []
    storage.upload_pack(pack.path, pack.manifest, events.append)
    assert {(event.kind, event.stage, event.total) for event in events} == {("stage", "uploading", 20)}
    counts = [event.done for event in events]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 20)
    assert len(set(counts)) > 3
    assert events[-1].message.endswith(" MB/s")


def test_a_damaged_pack_is_not_uploaded(storage: Storage, pack: Pack) -> None:
    """What is good of it may be there; the damaged shard and the description are not."""
    shard = pack.path / pack.facts["shards"][2]["file"]
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DatasetError, match=rf"{shard.name} is damaged"):
        storage.upload_pack(pack.path, pack.manifest)
    names = {key.rpartition("/")[2] for key in storage.list("packs/")}
    assert "pack.json" not in names
    assert not any(name.startswith("images-00002") for name in names)


def test_an_interrupt_ends_the_upload_at_once(
    aws: Any, storage: Storage, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way is given up, and no more is begun."""
    monkeypatch.setattr(transfer.Meter, "EVERY", 0.0)

    def report(event: Event) -> None:
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.upload_pack(pack.path, pack.manifest, report)
    assert len(storage.list("packs/")) < 7
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("storage")]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_again_only_when_it_has_changed(storage: Storage, s3: Any, tmp_path: Path) -> None:
    """By its content; also where the length is the same."""
    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    sent = Sent(s3)
    assert storage.upload_file(path, "inputs/w/weights.h5") == storage.uri("inputs/w/weights.h5")
    storage.upload_file(path, "inputs/w/weights.h5")
    assert sent.names == ["weights.h5"]
    path.write_bytes(b"two")
    storage.upload_file(path, "inputs/w/weights.h5")
    assert sent.names == ["weights.h5"] * 2
    assert storage.get("inputs/w/weights.h5") == b"two"


def test_a_folder_arrives_with_its_folders(storage: Storage, s3: Any, tmp_path: Path) -> None:
    """A file that changed is the only one that is sent again."""

    def files() -> dict[str, Path]:
        found = (tmp_path / "model").rglob("*")
        return {f"inputs/m/{path.relative_to(tmp_path).as_posix()}": path for path in found if path.is_file()}

    for name in ("a.json", "deep/b.bin", "deep/é ü.bin", "deep/er/empty"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(name.encode() if "empty" not in name else b"")
    storage.upload_files(files())
    fetch(storage, "inputs/m/model/", tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "model")
    sent = Sent(s3)
    (tmp_path / "model/deep/b.bin").write_bytes(b"other")
    storage.upload_files(files())
    assert sent.names == ["b.bin"]


@pytest.mark.slow
def test_of_a_large_file_only_the_part_is_sent_again_that_was_cut(
    aws: Any, storage: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    """And it arrives whole."""
    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).bytes(40 << 20))
    proxy.breaks = [10 << 20]
    through(proxy, aws, storage.bucket).upload_file(path, "inputs/large")
    assert proxy.breaks == []
    assert hashlib.sha256(storage.get("inputs/large")).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert proxy.up < (40 << 20) + (17 << 20)


def test_everything_that_is_written_is_encrypted_with_the_given_key(
    s3: Any, bucket: str, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small objects, packs, and files that go in parts; and the bucket's own default."""
    monkeypatch.setattr(storages._TRANSFER, "multipart_threshold", 6 << 20)
    monkeypatch.setattr(storages._TRANSFER, "multipart_chunksize", 5 << 20)
    storage = Storage(s3, bucket, "medimg", kms_key=KEY, owner=OWNER)
    storage.ensure_bucket(True)
    (tmp_path / "large").write_bytes(bytes(7 << 20))
    storage.put("jobs/x/spec.json", b"{}")
    storage.upload_file(tmp_path / "large", "inputs/large")
    storage.upload_pack(pack.path, pack.manifest)
    assert len(storage.list()) == 9
    for key in storage.list():
        found = s3.head_object(Bucket=bucket, Key=storage.key(key))
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KEY), key
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}


# -- small things -----------------------------------------------------------------------------------------------------


def test_an_object_comes_back_as_it_was_written(storage: Storage) -> None:
    """One that begins with another's name is another."""
    value = json.dumps({"classes": ["NORMAL", "Lungenentzündung"], "n": 3, "none": None}, ensure_ascii=False).encode()
    assert storage.put("jobs/x/spec.json", value) == storage.uri("jobs/x/spec.json")
    assert storage.get("jobs/x/spec.json") == value
    assert storage.exists("jobs/x/spec.json")
    assert not storage.exists("jobs/x/spec")
    with pytest.raises(NotFoundError, match="jobs/y/spec"):
        storage.get("jobs/y/spec.json")


def test_deleting_a_folder_leaves_its_neighbours(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many requests as AWS's limit asks for; nothing can delete everything by accident."""
    monkeypatch.setattr(storages, "_MOST_DELETED", 10)
    for number in range(23):
        storage.put(f"jobs/a/{number}", b"x")
    storage.put("jobs/ab/0", b"xy")
    assert storage.delete_prefix("jobs/a/") == 23
    assert storage.list() == {"jobs/ab/0": 2}
    assert storage.delete_prefix("jobs/a/") == 0
    for nothing in ("", "/"):
        with pytest.raises(ValueError, match="everything of ours"):
            storage.delete_prefix(nothing)


def test_objects_that_could_not_be_deleted_are_told(storage: Storage, s3: Any) -> None:
    """AWS answers 200 to such a request and lists them in the body."""

    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Errors"] = [{"Key": "k", "Code": "AccessDenied", "Message": "not allowed"}]

    storage.put("jobs/a/0", b"x")
    s3.meta.events.register("after-call.s3.DeleteObjects", refuse)
    with pytest.raises(BackendError, match=r"1 of 1 objects .* AccessDenied: not allowed"):
        storage.delete_prefix("jobs/a/")


# -- downloading ------------------------------------------------------------------------------------------------------


def archive(content: Mapping[str, bytes]) -> bytes:
    """Returns a `tar.gz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, part in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            file.addfile(info, io.BytesIO(part))
    return buffer.getvalue()


def test_a_jobs_result_is_unpacked_on_the_way_although_the_line_breaks(
    aws: Any, storage: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    """It is read on from where the line broke, three times."""
    expected = {"model/medimg.json": b"{}", "model/weights": np.random.default_rng(0).bytes(3_000_000)}
    storage.put("jobs/a/output/model.tar.gz", archive(expected))
    proxy.down = [700_000, 900_000, 0]
    events: list[Event] = []
    through(proxy, aws, storage.bucket).download_archive("jobs/a/output/model.tar.gz", tmp_path / "out", events.append)
    assert proxy.down == []
    assert content(tmp_path / "out") == expected
    assert {event.stage for event in events} == {"downloading"}
    assert (events[-1].done, events[-1].total) == (4, 4)
    storage.download_archive("jobs/a/output/model.tar.gz", tmp_path / "model", folder="model")
    assert set(content(tmp_path / "model")) == {"medimg.json", "weights"}


def test_a_line_that_stays_broken_is_an_error_and_leaves_nothing(
    aws: Any, storage: Storage, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said about the job, and no half of its result stays."""
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    storage.put("jobs/a/output/model.tar.gz", archive({"big": np.random.default_rng(0).bytes(500_000)}))
    proxy.down = [100_000, *[1_000] * 40]
    with pytest.raises(UnreachableError, match="did not answer"):
        through(proxy, aws, storage.bucket, attempts=1).download_archive("jobs/a/output/model.tar.gz", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_hostile_archive_is_refused(storage: Storage, tmp_path: Path) -> None:
    """The rest of what is refused is in the tests of the archive."""
    storage.put("jobs/a/output/model.tar.gz", archive({"fine": b"1", "../escaped": b"2"}))
    with pytest.raises(BackendError, match=r"s3://.*model\.tar\.gz .*leads elsewhere"):
        storage.download_archive("jobs/a/output/model.tar.gz", tmp_path / "out")
    assert content(tmp_path) == {}
    with pytest.raises(NotFoundError):
        storage.download_archive("jobs/b/output/model.tar.gz", tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_a_storage_error(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an archive; what was written of it is removed."""
    storage.put("jobs/a/output/model.tar.gz", archive({"big": bytes(500_000)}))
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.download_archive("jobs/a/output/model.tar.gz", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# -- the bucket -------------------------------------------------------------------------------------------------------


def test_a_bucket_is_made_only_on_request_and_then_closed_encrypted_and_tagged(s3: Any, bucket: str) -> None:
    """In the client's region; a second call changes nothing."""
    storage = Storage(s3, bucket, "medimg", owner=OWNER)
    with pytest.raises(NotFoundError, match=r"medimg aws bootstrap, or medimg\.backend\('sagemaker', create_bucket=T"):
        storage.ensure_bucket(False)
    storage.ensure_bucket(True, [{"Key": "medimg", "Value": "medimg"}])
    storage.ensure_bucket(False)
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert sorted(blocked.items()) == [
        ("BlockPublicAcls", True), ("BlockPublicPolicy", True), ("IgnorePublicAcls", True),
        ("RestrictPublicBuckets", True),
    ]  # fmt: skip
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "medimg", "Value": "medimg"}]
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}


def test_the_first_region_makes_buckets_too(aws: Any, bucket: str) -> None:
    """It alone must not be named."""
    s3 = client(aws.environment, region="us-east-1")
    Storage(s3, bucket, "medimg", owner=OWNER).ensure_bucket(True)
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


def test_a_bucket_that_could_be_made_public_is_refused_with_the_command(storage: Storage, s3: Any) -> None:
    """Whatever the bucket holds now, and also where only one of the four switches is off."""
    for change in ("BlockPublicPolicy", None):
        if change is None:
            s3.delete_public_access_block(Bucket=storage.bucket)
        else:
            switches = {name: name != change for name in storages.BLOCKED}
            s3.put_public_access_block(Bucket=storage.bucket, PublicAccessBlockConfiguration=switches)
        with pytest.raises(ConfigError, match=rf"aws s3api put-public-access-block --bucket {storage.bucket} "):
            storage.ensure_bucket(True)


def test_a_bucket_of_another_region_is_refused(aws: Any, storage: Storage) -> None:
    """Before a byte crosses the border."""
    elsewhere = Storage(client(aws.environment, region="us-west-2"), storage.bucket, "medimg", owner=OWNER)
    with pytest.raises(ConfigError, match=f"is in {REGION}, and jobs run in us-west-2"):
        elsewhere.ensure_bucket(True)


def test_a_bucket_of_another_account_is_refused(s3: Any, storage: Storage) -> None:
    """Every request names the owner, since names of buckets are given again when they are deleted."""

    def as_aws(request: Any, **_: Any) -> Any:
        # The server does not compare owners; the answer is AWS's, the header that is looked at is ours.
        if request.headers.get("x-amz-expected-bucket-owner") not in ("999999999999", b"999999999999"):
            return None
        said = b"" if request.method == "HEAD" else b"<Error><Code>AccessDenied</Code></Error>"
        return AWSResponse(request.url, 403, {}, HTTPResponse(io.BytesIO(said), status=403, preload_content=False))

    s3.meta.events.register("before-send.s3", as_aws)
    other = Storage(s3, storage.bucket, "medimg", owner="999999999999")
    with pytest.raises(AccessError, match=r"belongs to another AWS account.*bucket='…'"):
        other.ensure_bucket(True)
    for ask in (
        lambda: other.put("k", b"1"), lambda: other.get("k"), lambda: other.list(), lambda: other.exists("k"),
        lambda: other.delete_prefix("k"),
    ):  # fmt: skip
        with pytest.raises(AccessError):
            ask()


def test_without_a_bucket_the_way_to_one_is_told(s3: Any, bucket: str, pack: Pack) -> None:
    """Whatever was asked of it."""
    storage = Storage(s3, bucket, "medimg", owner=OWNER)
    for ask in (
        lambda: storage.upload_pack(pack.path, pack.manifest),
        lambda: storage.put("k", json.dumps(1).encode()),
    ):
        with pytest.raises(NotFoundError, match="medimg aws bootstrap"):
            ask()
