"""Posts files that break readers to a running endpoint, and counts what it answers.

    python benchmarks/studies/posted.py DATA [MODEL] [--count 10000] [--kinds JPEG,PNG,…] [--connections 4]

Every file of DATA/corpora and DATA/dicom, then COUNT mutations of each format (those of robustness.py).
MODEL is a model folder; without it a small one is trained. Only 200 and 4xx are right answers. A file that got 503, as
where a worker that took longer than it may was ended, is sent again, alone: 503 twice is wrong. Both are listed.
The memory is the peak of the front process and of any worker, those that were ended too. The exit status is 1 where a
wrong answer came, or none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attacks import small_model
from PIL import Image

from robustness import corpora, seeds_of

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "robustness"))

from attacked import Target, served
from broken_files import KINDS, mutations

SAMPLE_SECONDS = 0.1
AGAIN = "(again, alone)"
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """What came back for one file: a status with a code, or the name of an error; and after how many seconds."""

    name: str
    told: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it may come: 200, 4xx, and 503 the first time."""
        return re.match("200|4..", self.told) is not None or (
            self.told.startswith("503") and not self.name.endswith(AGAIN)
        )


class Peak:
    """The largest memory of the server's processes while the block runs, in megabytes."""

    def __init__(self, target: Target) -> None:
        self.front = self.worker = 0.0
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            front, worker = self._target.memory_mb(peak=True)
            self.front, self.worker = max(self.front, front), max(self.worker, worker)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Poster:
    """Posts files over several connections, which are kept while the server keeps them."""

    def __init__(self, target: Target, connections: int) -> None:
        self._target = target
        self._connections = connections
        self._lock = threading.Lock()

    def post(self, files: Iterable[tuple[str, bytes]]) -> list[Answer]:
        """Returns the answers, in no order."""
        waiting, found, refused = iter(files), list[Answer](), list[tuple[str, bytes]]()
        threads = [
            threading.Thread(target=self._work, args=(waiting, found, refused)) for _ in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if refused:
            time.sleep(PAUSE_SECONDS)  # as Retry-After asks: until another worker is there
        again = list[Answer]()
        self._work(iter(refused), again, [])
        return found + [replace(each, name=f"{each.name} {AGAIN}") for each in again]

    def _work(
        self, waiting: Iterator[tuple[str, bytes]], found: list[Answer], refused: list[tuple[str, bytes]]
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=60)
        headers = {"Authorization": f"Bearer {self._target.key}", "Content-Type": "application/octet-stream"}
        with contextlib.closing(connection):
            while True:
                with self._lock:
                    name, data = next(waiting, ("", b""))
                if not name:
                    return
                began = time.perf_counter()
                try:
                    connection.request("POST", "/predict", data, headers)
                    response = connection.getresponse()
                    code = json.loads(response.read()).get("code", "")
                    told = f"{response.status} {code}".strip()
                except (OSError, ValueError, http.client.HTTPException) as error:
                    connection.close()
                    told = f"no answer ({type(error).__name__})"
                found.append(Answer(name, told, time.perf_counter() - began))
                if told.startswith("503"):
                    refused.append((name, data))


def report(title: str, found: list[Answer], peak: Peak, seconds: float) -> int:
    """Prints what became of a set of files and returns how many answers were none that may come."""
    tally = ", ".join(f"{told} × {count:,}" for told, count in Counter(each.told for each in found).most_common())
    slowest = max(found, key=lambda each: each.seconds)
    print(f"{title}: {len(found):,} answers, {len(found) / seconds:.0f} a second\n  {tally}")
    print(f"  slowest {slowest.seconds:.1f} s ({slowest.name}: {slowest.told})")
    print(f"  peak memory so far: front {peak.front:.0f} MB, a worker {peak.worker:.0f} MB", flush=True)
    wrong = [each for each in found if not each.is_right]
    for each in found:
        if each in wrong or each.told.startswith("503") or each.name.endswith(AGAIN):
            print(f"    {'WRONG ' if each in wrong else ''}{each.told}: {each.name} after {each.seconds:.1f} s")
    return len(wrong)


def main() -> int:
    """Prints the tallies; returns 1 where an answer was wrong."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--connections", type=int, default=4)
    asked = parser.parse_args()
    sets = [
        *((f"corpus {title}", files) for title, files in corpora(asked.data)),
        *(
            (f"{kind}, mutated", mutations(kind, range(asked.count), seeds_of(kind, asked.data)))
            for kind in asked.kinds.split(",")
        ),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = asked.model or small_model(folder)
        picture = folder / "image.png"
        Image.linear_gradient("L").save(picture)
        with served(model, folder / "server", picture.read_bytes()) as target, Peak(target) as peak:
            wrong = 0
            for title, files in sets:
                began = time.perf_counter()
                found = Poster(target, asked.connections).post(files)
                wrong += report(title, found, peak, time.perf_counter() - began)
            alive = target.process.poll() is None and target.answers()
            failures = target.log.read_text().count("Traceback")
    print(f"wrong answers: {wrong}; failures in the log: {failures}; the process {'lives' if alive else 'ENDED'}")
    return 0 if alive and not wrong and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
