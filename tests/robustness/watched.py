"""A child process that decodes file after file, so that a crash, a hang or a word on its output is seen and counted.

Run as a program it is that child: files come on its standard input, what became of them goes to the file descriptor
that it is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO

from medimg.data.decode import REJECTIONS, decode
from medimg.data.pixels import MAX_PIXELS
from medimg.errors import ImageRejected

LONGEST_S = 5.0  # of processor time, so that a busy machine breaks no promise
PATIENCE_S = 60.0  # of the wall clock, for what waits without working
BYTES_A_PIXEL = 16
BYTES_BESIDE = 64 * 2**20
_ADDRESSES = 6 * 2**30
_FRAME = struct.Struct("<II")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        name: What it was called.
        code: "pixels", a code of `REJECTIONS`, or a broken promise: "crash", "hang" or "undeclared" exception.
        told: Words of the rejection or of what went wrong.
        seconds: Of processor time.
        peak_bytes: By which the process grew while it decoded.
        pixels: Of the picture; 0 of a rejection.
        size: Bytes of the file.
        output: What the process wrote to its outputs meanwhile.
        tiff: Whether the file is a TIFF: libtiff writes what is wrong with one to the standard error of the process,
            and Pillow has no switch for it. It knows no name and quotes nothing of the file.
    """

    name: str
    code: str
    told: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    pixels: int = 0
    size: int = 0
    output: str = ""
    tiff: bool = False

    @property
    def allowed_bytes(self) -> int:
        """Memory that `decode` promises to stay within; a rejected picture may have been as large as they get."""
        return BYTES_A_PIXEL * (self.pixels or MAX_PIXELS) + BYTES_BESIDE + self.size

    @property
    def breach(self) -> str:
        """What is wrong with it: "crash", "hang", "undeclared", "memory", "output", or nothing."""
        if self.code in ("crash", "hang", "undeclared"):
            return self.code
        if self.peak_bytes > self.allowed_bytes:
            return "memory"
        return "output" if self.output and not self.tiff else ""


class Watched:
    """Children one after the other: the next begins where one crashed or hung."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: IO[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def outcomes(self, files: Iterable[tuple[str, bytes]]) -> Iterator[Outcome]:
        """Yields what becomes of each file."""
        for name, data in files:
            yield self._outcome(name, data)

    def _outcome(self, name: str, data: bytes) -> Outcome:
        if self._child is None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._answers is not None
        spelled = name.encode("utf-8", "surrogateescape")
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(_FRAME.pack(len(spelled), len(data)) + spelled + data)
            self._child.stdin.flush()
        ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
        if not ready:
            self._stop()
            return Outcome(name, "hang", f"no answer in {PATIENCE_S:.0f} s", seconds=PATIENCE_S, size=len(data))
        answer = self._answers.readline()
        if not answer:
            status = self._child.wait()
            said = self._said()
            self._stop()
            return Outcome(name, "crash", f"status {status}", size=len(data), output=said)
        found = Outcome(**json.loads(answer))
        if found.seconds > LONGEST_S:
            return Outcome(**{**vars(found), "code": "hang"})
        return found

    def _start(self) -> None:
        reading, writing = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _stop
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(writing)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            pass_fds=(writing,),
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        )
        os.close(writing)
        self._answers = os.fdopen(reading, "rb")

    def _said(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        return self._output.read()[-2000:].decode("utf-8", "replace")

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._answers, self._output):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._child = None


def main() -> None:
    """Decodes what comes on the standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("always")
    answers = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    while header := sys.stdin.buffer.read(_FRAME.size):
        name_length, length = _FRAME.unpack(header)
        name = sys.stdin.buffer.read(name_length).decode("utf-8", "surrogateescape")
        data = sys.stdin.buffer.read(length)
        told, pixels = "", 0
        said = os.fstat(2).st_size
        before = _memory("VmRSS", reset=True)
        start = time.process_time()
        try:
            found = decode(data, name=name)
        except ImageRejected as rejected:
            sound = rejected.code in REJECTIONS and name in str(rejected)
            code, told = rejected.code if sound else "undeclared", str(rejected)
        except BaseException as error:  # a Rust panic is no Exception
            code, told = "undeclared", f"{type(error).__name__}: {error}"
        else:
            sound = found.dtype.name == "uint8" and found.shape[2:] in ((), (3,)) and found.size > 0
            code, pixels = "pixels" if sound else "undeclared", found.shape[0] * found.shape[1]
            del found
        seconds = time.process_time() - start
        peak = _memory("VmHWM") - before
        sys.stdout.flush()
        sys.stderr.flush()
        output = os.pread(2, 500, said).decode("utf-8", "replace") if os.fstat(2).st_size > said else ""
        outcome = Outcome(name, code, told[:300], seconds, peak, pixels, len(data), output, data[:2] in (b"II", b"MM"))
        line = json.dumps({field.name: getattr(outcome, field.name) for field in fields(outcome)})
        answers.write(line.encode() + b"\n")


def _memory(what: str, *, reset: bool = False) -> int:
    """Returns the resident memory now or at its peak, in bytes; can begin a new peak first."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # Linux 4.0: the peak becomes what is resident now
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {what} in /proc/self/status")


if __name__ == "__main__":
    main()
