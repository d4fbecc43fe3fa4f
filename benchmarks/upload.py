"""What it takes to get a dataset into S3: our pack beside the files themselves, with 25 ms of latency a request.

    python benchmarks/upload.py DATA [--files shrunk|original] [--rounds 3] [--latency-ms 25]

DATA holds chestxray/kaggle224 (4,746 radiographs, already shrunk to 224 pixels) and chestxray/originals (18 untouched
ones; with `--files original` repeated, each under its own name and with its own bytes, to as many). The server is the
tests' emulator, on this machine: its own work on a request is printed, since a server of that speed slows all alike.
Every round uploads into a new prefix; the one that sends file after file runs once.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from s3transfer.manager import TransferManager

import medimg
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.storage import Storage
from medimg.data.pack import build

ROOT = Path(__file__).parents[1]
REGION = "eu-central-1"
IMAGE_SIZE = 224


def shrunk(data: Path) -> medimg.Dataset:
    """The chest set as it is given: 224 pixels."""
    return medimg.Dataset.from_folder(data / "chestxray" / "kaggle224")


def original(data: Path, folder: Path) -> medimg.Dataset:
    """As many files as that, of the sizes that hospitals write: each an original with a comment of its own."""
    sources = sorted((data / "chestxray" / "originals").rglob("*.jpeg"))
    count = len(shrunk(data))
    for number, source in enumerate(itertools.islice(itertools.cycle(sources), count)):
        content, comment = source.read_bytes(), f"copy {number}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        target = folder / "images" / ("PNEUMONIA" if number % 2 else "NORMAL") / f"{number:05d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[:2] + segment + content[2:])
    return medimg.Dataset.from_folder(folder / "images")


@dataclass(frozen=True)
class Run:
    """What one upload took."""

    seconds: float
    requests: int
    bytes: int


class Wire:
    """Counts what a client sends: requests, and bytes of bodies."""

    def __init__(self, client: Any) -> None:
        self.requests = self.bytes = 0
        client.meta.events.register("before-send.s3", self._count)

    def _count(self, request: Any, **_: Any) -> None:
        self.requests += 1
        self.bytes += int(request.headers.get("Content-Length", 0))

    def during(self, work: Callable[[], Any]) -> Run:
        """Returns what some work took."""
        self.requests = self.bytes = 0
        started = time.perf_counter()
        work()
        return Run(time.perf_counter() - started, self.requests, self.bytes)


def one_by_one(client: Any, bucket: str, prefix: str, files: Sequence[Path]) -> None:
    """What most scripts do."""
    for number, path in enumerate(files):
        client.upload_file(str(path), bucket, f"{prefix}/{number}/{path.name}")


def transfer_manager(client: Any, bucket: str, prefix: str, files: Sequence[Path]) -> None:
    """What boto3 offers for many files: ten threads."""
    with TransferManager(client, TransferConfig()) as manager:
        for future in [
            manager.upload(str(path), bucket, f"{prefix}/{number}/{path.name}") for number, path in enumerate(files)
        ]:
            future.result()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--files", choices=("shrunk", "original"), default="shrunk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=25.0)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "cloud"))
    from aws.handle import Emulator  # type: ignore[import-not-found, unused-ignore]

    with tempfile.TemporaryDirectory() as scratch, Emulator.start(Path(scratch) / "aws", region=REGION) as aws:
        os.environ.update(aws.environment, MEDIMG_HOME=f"{scratch}/home", MEDIMG_SALT="benchmark")
        data = shrunk(given.data) if given.files == "shrunk" else original(given.data, Path(scratch))
        measure(data, aws, given.rounds, given.latency_ms)


def measure(dataset: medimg.Dataset, aws: Any, rounds: int, latency_ms: float) -> None:
    """Uploads a dataset in each way."""
    started = time.perf_counter()
    pack = build(dataset, IMAGE_SIZE, facts=dataset.index())
    packing = time.perf_counter() - started
    files = [sample.path for sample in dataset.samples]
    account = Account(region=REGION, create_bucket=True)
    account.writable.put("ready", b"")
    client, bucket = account.client("s3"), account.bucket
    wire = Wire(client)
    bare = wire.during(partial(one_by_one, client, bucket, "warm", files[:100])).seconds / 100

    runs: dict[str, list[Run]] = {}
    aws.latency(latency_ms / 1e3)
    try:
        for number in range(rounds):
            storage = Storage(client, bucket, f"pack-{number}", owner=account.id)
            for name in ("the pack", "the pack, a second time"):
                runs.setdefault(name, []).append(wire.during(partial(storage.upload_pack, pack.path, pack.manifest)))
            many = partial(transfer_manager, client, bucket, f"many-{number}", files)
            runs.setdefault("TransferManager, 10 threads", []).append(wire.during(many))
        runs["upload_file, one by one"] = [wire.during(partial(one_by_one, client, bucket, "one", files))]
    finally:
        aws.latency(0)
    runs["the pack, packing included"] = [replace(run, seconds=run.seconds + packing) for run in runs["the pack"]]

    sizes = sum(path.stat().st_size for path in files)
    print(f"{len(files):,} files, {sizes / 1e6:.1f} MB; packed at {IMAGE_SIZE} pixels in {packing:.1f} s, once")
    print(f"{latency_ms:.0f} ms of latency a request, and {bare * 1e3:.1f} ms of this client's and server's own work")
    print(f"{'':27}  {'median s':>8}  {'min':>6}  {'max':>6}  runs  requests  {'MB sent':>8}  {'× ours':>7}")
    ours = statistics.median(run.seconds for run in runs["the pack"])
    for name, found in sorted(runs.items(), key=lambda item: item[1][0].seconds):
        seconds = [run.seconds for run in found]
        print(
            f"{name:27}  {statistics.median(seconds):8.2f}  {min(seconds):6.2f}  {max(seconds):6.2f}  {len(found):4}  "
            f"{found[0].requests:8,}  {found[0].bytes / 1e6:8.1f}  {statistics.median(seconds) / ours:7.1f}"
        )
    assert all(run.bytes == 0 for run in runs["the pack, a second time"]), "a second upload sends nothing"


if __name__ == "__main__":
    main()
