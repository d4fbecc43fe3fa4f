"""The journal of a long prediction: each answer is written down as it comes, so that a killed run goes on there.

Rejections are not: many pass, such as that of a busy server or of a file that may not be read yet.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medimg.errors import AlreadyExistsError
from medimg.home import make_folder, salt, salted, storage_errors
from medimg.inference.decision import Prediction

__all__ = ["Journal", "stamp"]

_SYNC_SECONDS = 2.0  # what a loss of power costs at most
_ELSEWHERE = "name an output with --out"


class Journal(AbstractContextManager["Journal"]):
    """Answers by file, in a file with a line each; what is cut off at its end does not count.

    A sample's id would not do: it is made of the path inside a folder, and two wards may hold files of one name.

    Args:
        path: The file; made where there is none.
        answering: What answers, such as a model's digest and its runtime: answers of anything else are not believed.

    Raises:
        AlreadyExistsError: Another process writes it.
        StorageError: The disk is full or not writable.
    """

    def __init__(self, path: Path, answering: str) -> None:
        self.path = path
        self._answering = answering
        self._salt = salt()
        make_folder(path.parent)
        with storage_errors(path, elsewhere=_ELSEWHERE):
            self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise AlreadyExistsError(
                f"another process is predicting into {path}. Wait for it, or name another output with --out"
            ) from None
        self._known = self._read()
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self._known)

    def _read(self) -> dict[str, tuple[list[int], bytes]]:
        """Returns stamp and line of each file, and cuts off what is not whole."""
        known: dict[str, tuple[list[int], bytes]] = {}
        self._file.seek(0)
        whole = 0
        with storage_errors(self.path, elsewhere=_ELSEWHERE), os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for number, line in enumerate(lines):
                try:
                    found = json.loads(line)
                    if not line.endswith(b"\n") or (number == 0 and found["answering"] != self._answering):
                        break
                    if number:
                        known[found["file"]] = (found["stamp"], line)
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            self._file.truncate(whole)
            if not whole:
                known = {}
                self._append({"answering": self._answering})
        return known

    def _file_id(self, path: Path) -> str:
        return salted("file", str(path.absolute()), self._salt)

    def find(self, path: Path) -> Prediction | None:
        """Returns what was answered for a file, unless it has changed since or is another one; None: nothing."""
        before, line = self._known.get(self._file_id(path), ([], b""))
        if not before or before != stamp(path):
            return None
        return Prediction.from_json({**json.loads(line), "latency_ms": 0.0})

    def add(self, path: Path, before: list[int], answer: Prediction) -> None:
        """Writes down an answer; when it returns, a kill of the process does not lose it.

        Args:
            path: The file.
            before: Its stamp from before it was read.
            answer: What was predicted.

        Raises:
            StorageError: The disk is full; what was written before is there.
        """
        content: dict[str, Any] = answer.to_json()
        del content["latency_ms"]
        self._append({"file": self._file_id(path), "stamp": before, **content})
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            with storage_errors(self.path, elsewhere=_ELSEWHERE):
                os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _append(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, ensure_ascii=True).encode() + b"\n"
        with storage_errors(self.path, elsewhere=_ELSEWHERE):
            while line:  # a disk that is filling takes a part
                line = line[self._file.write(line) :]

    def remove(self) -> None:
        """Removes the file: its content is in the result."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def stamp(path: Path) -> list[int]:
    """Returns what tells a file from others and from itself when it has changed; [] where it cannot be looked at.

    Size in bytes, times of the last change of content and of anything in nanoseconds, and inode: programs set the first
    time, so that other files put in place of the old ones may have it, but they set neither of the other two.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
