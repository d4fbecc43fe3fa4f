"""What it takes to get a dataset into S3: our pack beside the files themselves, with 25 ms of latency a request.

    python benchmarks/upload.py [DATA] [--files shrunk|original] [--images 4700] [--rounds 2] [--looped N]

DATA holds chestxray/kaggle224 (4,746 radiographs, already shrunk to 224 pixels) and chestxray/originals (18 untouched
ones; with `--files original` repeated, each under its own name and with its own bytes). Without it the files are
generated. The server is the tests' emulator, on this machine and its cores: its own work on a request is printed, since
a server of that speed slows all alike. Every round uploads into new prefixes, in an order of its own; the way that
sends file after file runs once, with `--looped` for so many of them, and its time is taken in proportion.
TransferManager is boto3's own, with its ten threads, and with 32 threads and as many connections. Packing is not part
of an upload, since training needs the pack anyway; a row has it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from films import write_films
from measured import Measured, Row, Table, folder_named, interleaved, some, timed
from s3transfer.manager import TransferManager

import medimg
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.storage import Storage
from medimg.data.pack import Pack, build

ROOT = Path(__file__).parents[1]
REGION = "eu-central-1"
IMAGE_SIZE = 224
MANY = 32  # threads of the quicker TransferManager
WARM = 100  # files that are sent before, to get to know the server's own work


def original(source: Path, folder: Path, count: int) -> Path:
    """Writes as many files, of the sizes that hospitals write: each an original with a comment of its own."""
    for number, path in enumerate(itertools.islice(itertools.cycle(sorted(source.rglob("*.jpeg"))), count)):
        content, comment = path.read_bytes(), f"copy {number}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        target = folder / ("PNEUMONIA" if number % 2 else "NORMAL") / f"{number:05d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[:2] + segment + content[2:])
    return folder


class Wire:
    """A client of S3, and what it has sent: requests, and bytes of bodies."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.requests = self.bytes = 0
        self._lock = threading.Lock()
        client.meta.events.register("before-send.s3", self._count)

    def _count(self, request: Any, **_: Any) -> None:
        with self._lock:
            self.requests += 1
            self.bytes += int(request.headers.get("Content-Length", 0))

    def during(self, work: Callable[[], object]) -> str:
        """Returns in words what some work sends."""
        requests, sent = self.requests, self.bytes
        work()
        return f"{(self.bytes - sent) / 1e6:.1f} MB in {self.requests - requests:,} requests"


def one_by_one(client: Any, bucket: str, prefix: str, files: Sequence[Path]) -> None:
    """What most scripts do."""
    for number, path in enumerate(files):
        client.upload_file(str(path), bucket, f"{prefix}/{number}/{path.name}")


def transfer_manager(client: Any, bucket: str, prefix: str, files: Sequence[Path], threads: int) -> None:
    """What boto3 offers for many files."""
    with TransferManager(client, TransferConfig(max_concurrency=threads)) as manager:
        for future in [
            manager.upload(str(path), bucket, f"{prefix}/{number}/{path.name}") for number, path in enumerate(files)
        ]:
            future.result()


def measure(dataset: medimg.Dataset, aws: Any, rounds: int, latency_ms: float, looped: int | None) -> Table:
    """Uploads a dataset in each way, of its files so many one by one, and returns the table."""
    files = [sample.path for sample in dataset.samples]
    some_files = files[:looped]
    packs: list[Pack] = []
    indexing, _ = timed(dataset.index)
    packing, _ = timed(lambda: packs.append(build(dataset, IMAGE_SIZE, facts=dataset.index())))
    (pack,) = packs
    account = Account(region=REGION, create_bucket=True)
    account.writable.put("ready", b"")
    bucket, prefixes = account.bucket, map(str, itertools.count())
    ours, plain = Wire(account.client("s3")), Wire(boto3.client("s3", region_name=REGION))
    wide = Wire(boto3.client("s3", region_name=REGION, config=Config(max_pool_connections=MANY)))

    def upload(prefix: str) -> None:
        Storage(ours.client, bucket, prefix, owner=account.id).upload_pack(pack.path, pack.manifest)

    def manage(wire: Wire, threads: int) -> None:
        transfer_manager(wire.client, bucket, next(prefixes), files, threads)

    upload("again")  # connections and code are warm for all
    transfer_manager(wide.client, bucket, "warm-wide", files[:WARM], MANY)
    bare, _ = timed(lambda: one_by_one(plain.client, bucket, "warm", files[:WARM]))
    ways: dict[str, tuple[Wire, Callable[[], object]]] = {
        "pack": (ours, lambda: upload(next(prefixes))),
        "again": (ours, lambda: upload("again")),
        "ten": (plain, lambda: manage(plain, TransferConfig().max_concurrency)),
        "many": (wide, lambda: manage(wide, MANY)),
    }
    once: dict[str, tuple[Wire, Callable[[], object]]] = {
        "loop": (plain, lambda: one_by_one(plain.client, bucket, next(prefixes), some_files))
    }
    sent: dict[str, str] = {}

    def watched(name: str, wire: Wire, work: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            sent[name] = wire.during(work)

        return run

    aws.latency(latency_ms / 1e3)
    try:
        found = interleaved({name: watched(name, *way) for name, way in ways.items()}, rounds, warm=0)
        found |= interleaved({name: watched(name, *way) for name, way in once.items()}, 1, warm=0)
    finally:
        aws.latency(0)
    loop, share = found["loop"], len(files) / len(some_files)
    loop = Measured(tuple(value * share for value in loop.values), tuple(used * share for used in loop.processor_s))
    before = ours.bytes
    upload("again")
    work = f"upload of {len(files):,} images"
    packed = Measured(tuple(seconds + packing for seconds in found["pack"].values))
    rows = (
        Row(work, found["pack"], "`upload_file` in a loop", loop, goal=15),
        Row(work, found["pack"], "TransferManager, 10 threads", found["ten"], goal=1.5),
        Row(work, found["pack"], f"TransferManager, {MANY} threads", found["many"], goal=1.5),
        Row(f"{work}, packing included", packed, "TransferManager, 10 threads", found["ten"]),
        Row(f"{work}, a second time", found["again"]),
        Row("bytes sent the second time", ours.bytes - before, unit="bytes", goal=0),
    )
    size = sum(path.stat().st_size for path in files) / 1e6
    notes = (
        f"sent: the pack {sent['pack']}, a second time {sent['again']}; the files {sent['ten']}",
        f"{size:,.1f} MB of files, read and hashed in {indexing:.1f} s and packed in {packing:.1f} s, once",
        f"{bare / WARM * 1e3:.1f} ms a request are this client's and the emulator's own work, besides the latency",
    )
    part = f", of {looped:,} files and in proportion" if len(some_files) < len(files) else ""
    compared = (
        f"{len(files):,} files to an emulated S3 with {latency_ms:.0f} ms of latency a request; medians of {rounds} "
        f"rounds, the loop once{part}. A pack holds the pixels at 224, compressed without loss."
    )
    return Table("Upload", compared, rows, notes, ("boto3", "s3transfer"))


def main() -> int:
    """Prints the table; returns 1 where a goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named, nargs="?")
    parser.add_argument("--files", choices=("shrunk", "original"), default="shrunk")
    parser.add_argument("--images", type=some, default=4700, help="how many to generate or repeat")
    parser.add_argument("--rounds", type=some, default=2)
    parser.add_argument("--looped", type=some, help="files that the loop sends, and its time in proportion; else all")
    parser.add_argument("--latency-ms", type=float, default=25.0)
    given = parser.parse_args()
    if given.files == "original" and given.data is None:
        parser.error("--files original needs DATA")
    sys.path.insert(0, str(ROOT / "tests" / "cloud"))
    from aws.handle import Emulator  # type: ignore[import-not-found, unused-ignore]

    with tempfile.TemporaryDirectory() as scratch, Emulator.start(Path(scratch) / "aws", region=REGION) as aws:
        os.environ.update(aws.environment, MEDIMG_HOME=f"{scratch}/home", MEDIMG_SALT="benchmark")
        folder = Path(scratch) / "images"
        if given.data is None:
            write_films(folder, given.images)
        elif given.files == "original":
            original(given.data / "chestxray" / "originals", folder, given.images)
        else:
            folder = given.data / "chestxray" / "kaggle224"
        return measure(medimg.Dataset.from_folder(folder), aws, given.rounds, given.latency_ms, given.looped).print()


if __name__ == "__main__":
    raise SystemExit(main())
