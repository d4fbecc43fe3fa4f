"""The request log: what a line holds and what it does not, files that rotate, and what can be read from them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from medimg.errors import NotFoundError
from medimg.inference.monitoring import Reference, Seen
from medimg.inference.request_lines import FILE, health_of, lines_of, read, reference_line
from medimg.serving.monitor import Monitor
from medimg.serving.request_log import LogFile, RequestLog, StandardOutput, tail

DIGEST = "d" * 64
IMAGE = b"\x89PNG of Jane Doe, born 1970-01-01"


def answer(number: int, *, digest: str = DIGEST) -> dict[str, Any]:
    """Returns the JSON of an answer, another one for each number."""
    score = (number * 0.6180339887) % 1
    return {
        "label": "ill" if score >= 0.5 else "well", "probabilities": {"ill": score, "well": 1 - score},
        "positives": ["ill"] if score >= 0.5 else [], "threshold": {"ill": 0.5}, "uncertain": False,
        "latency_ms": 4.2, "digest": digest, "version": "chest/2",
    }  # fmt: skip


def looks(number: int, more: float = 0.0) -> dict[str, float]:
    """Returns the statistics of an image, others for each number."""
    return {"brightness": round((number * 0.7548776662) % 1 * 0.5 + more, 4)}


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of 200 images of validation."""
    return Reference.of([Seen.of(answer(number), looks(number)) for number in range(200)], positive="ill")


def ask(monitor: Monitor, numbers: range, more: float = 0.0) -> None:
    """Has a monitor take in images."""
    for number in numbers:
        monitor.answered(b"image %d" % number, answer(number), looks(number, more))


@pytest.fixture
def monitor(tmp_path: Path, reference: Reference) -> Monitor:
    """A monitor of a server that has just begun, with its log in a folder."""
    made = Monitor(RequestLog(LogFile(tmp_path), b"salt"))
    made.watch(reference, digest=DIGEST, version="chest/2")
    return made


def test_a_line_tells_the_answer_and_nothing_of_whose_image_it_was(monitor: Monitor, tmp_path: Path) -> None:
    """No byte of the image, and an id that cannot be looked up without the salt."""
    monitor.answered(IMAGE, answer(1), looks(1))
    monitor.refused(IMAGE, 415, "not-an-image", latency_ms=1.26)
    monitor.refused(b"", 400, "bad-request", latency_ms=0.1)
    monitor.close()
    text = (tmp_path / FILE).read_text()
    first, answered, refused, empty = read(text.splitlines())
    assert (first["medimg"], first["digest"], first["version"]) == ("reference", DIGEST, "chest/2")
    assert set(answered) == {
        "medimg", "time", "id", "status", "code", "latency_ms", "label", "probabilities", "positives", "uncertain",
        "statistics", "digest",
    }  # fmt: skip
    assert answered["probabilities"] == {"ill": 0.618, "well": 0.382}
    assert answered["time"].endswith("+00:00")
    assert (refused["status"], refused["code"], refused["latency_ms"]) == (415, "not-an-image", 1.3)
    assert answered["id"] == refused["id"] != ""
    assert empty["id"] == ""
    for secret in ("Jane", "PNG", "1970", hashlib.sha256(IMAGE).hexdigest()[:16], "salt"):
        assert secret not in text
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_another_salt_gives_another_id() -> None:
    """And the same salt the same, so that who has image and salt finds its lines."""
    ids = [RequestLog(StandardOutput(), salt).answered(IMAGE, answer(1), {}).id for salt in (b"a", b"a", b"b")]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(id) == 16 for id in ids)


def test_files_rotate_and_each_can_be_read_alone(tmp_path: Path, reference: Reference) -> None:
    """Five at most, each beginning with what its images are compared with; together they are in order."""
    sink = LogFile(tmp_path, max_bytes=20_000)
    log = RequestLog(sink, b"salt")
    log.model(reference, digest=DIGEST, version="")
    for number in range(600):
        log.answered(b"image %d" % number, answer(number), looks(number))
        if number % 10 == 0:
            sink.flush()
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [FILE, *(f"{FILE}.{number}" for number in (1, 2, 3, 4))]
    assert all(file.stat().st_size <= 20_000 for file in files)
    for file in files:
        with file.open() as lines:
            assert json.loads(next(lines))["medimg"] == "reference"
    times = [line["time"] for line in read(lines_of(tmp_path)) if line["medimg"] == "request"]
    assert times == sorted(times)
    assert 100 < len(times) < 600
    with pytest.raises(NotFoundError, match="no request log"):
        list(lines_of(tmp_path / "nowhere"))


def test_a_disk_that_takes_nothing_stops_no_answer(
    tmp_path: Path, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once, and counted; when there is room again the log goes on."""
    folder = tmp_path / "gone"
    sink = LogFile(folder)
    monitor = Monitor(RequestLog(sink, b"salt"))
    monitor.watch(reference, digest=DIGEST)
    ask(monitor, range(60))
    sink.flush()
    sink.flush()
    ask(monitor, range(60, 70))
    sink.flush()
    assert sink.lost == 71
    assert capsys.readouterr().out.count("the request log cannot be written, answers go on") == 1
    folder.mkdir()
    ask(monitor, range(70, 80))
    monitor.close()
    first, *others = read(lines_of(folder))
    assert (first["medimg"], len(others)) == ("reference", 10)
    assert monitor.health()["images"] == 80


def test_a_line_that_cannot_be_made_ends_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is counted, what it held is not told, and the others are written."""
    sink = LogFile(tmp_path)
    for line in (lambda: "a", lambda: str({}["Jane Doe"]), lambda: "\ud800", lambda: "b"):
        sink.write(line)
    sink.flush()
    sink.close()
    assert (tmp_path / FILE).read_text() == "a\nb\n"
    assert sink.lost == 2
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "KeyError" in told and "Jane" not in told


def test_standard_output_gets_whole_lines_and_may_be_closed(
    reference: Reference, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a function in a cloud has it; what reads it need know nothing else."""
    monitor = Monitor(RequestLog(StandardOutput(), b"salt"))
    monitor.watch(reference, digest=DIGEST)
    ask(monitor, range(80))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 81
    assert health_of(lines) == monitor.health()
    monkeypatch.setattr("sys.stdout", Broken())
    ask(monitor, range(80, 81))


class Broken:
    """An output that nobody reads any more."""

    def write(self, _: str) -> None:
        """Fails as a pipe does."""
        raise BrokenPipeError


def test_a_cloud_s_log_can_be_read_whatever_stands_between_the_lines(reference: Reference) -> None:
    """Times before them, others' lines, one that was cut off, and lines of another model."""
    kept: list[str] = []
    log = RequestLog(Kept(kept), b"salt")
    log.model(None, digest="old", version="")
    for number in range(70):
        log.answered(b"old %d" % number, answer(number, digest="old"), {})
    assert health_of(kept)["status"] == "unknown"
    log.model(reference, digest=DIGEST, version="")
    for number in range(70):
        log.answered(b"new %d" % number, answer(number), looks(number, 0.4))
    told = health_of(kept)
    assert (told["status"], told["images"]) == ("alarm", 70)
    assert "The images are brighter" in told["message"]
    dirty = [f"2026-01-01T00:00:00Z | INFO | {line} | end" for line in kept]
    dirty[10:10] = ["golden inputs agree", '{"medimg": "request", "time', '{"medimg": "request", "status": 200}', ""]
    assert health_of(dirty) == told
    assert health_of([])["status"] == "unknown"
    assert "no line of a request" in health_of(["anything"])["message"]
    assert health_of([reference_line(reference, digest=DIGEST, version="")])["status"] == "too-few"


def test_the_latest_images_count_in_whatever_order_a_log_has_them(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloud's log has the streams of its machines one after the other: the last line may be weeks old."""

    def stream(digest: str, numbers: range, more: float) -> list[str]:
        kept: list[str] = []
        log = RequestLog(Kept(kept), b"salt")
        log.model(reference, digest=digest, version="")
        for number in numbers:
            monkeypatch.setattr(time, "time", lambda number=number: 1.7e9 + number)
            log.answered(b"%d" % (number % 900), answer(number, digest=digest), looks(number, more))
        return kept

    # Brighter for 600 images, then as on validation for 600, of which 300 are images that were sent before.
    bright, usual = stream(DIGEST, range(600), 0.4), stream(DIGEST, range(600, 1200), 0.0)
    before = stream("old", range(-700, 0), 0.4)
    told = health_of([*before, *bright, *usual])
    assert (told["status"], told["images"]) == ("ok", 500)
    assert health_of([*usual, *bright, *before]) == health_of([*bright, *before, *usual]) == told
    assert health_of([*usual, *bright], size=2000)["images"] == 900
    assert health_of([*usual, *bright], size=2000)["status"] == "alarm"


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def start(self, line: str) -> None:
        """Keeps a line."""
        self.lines.append(line)

    def write(self, line: Any) -> None:
        """Keeps a line."""
        self.lines.append(line())

    def close(self) -> None:
        """Nothing is left."""


def test_a_server_that_starts_again_knows_what_it_knew(monitor: Monitor, tmp_path: Path, reference: Reference) -> None:
    """From the tail of the log; another model begins anew, and so does one without a reference."""
    ask(monitor, range(300), more=0.4)
    before = monitor.health()
    assert before["status"] == "alarm"
    monitor.close()
    again = Monitor(RequestLog(LogFile(tmp_path), b"salt"))
    again.watch(reference, digest=DIGEST, before=tail(tmp_path))
    found = again.health()
    assert {name: found[name] for name in ("status", "images", "measures")} == {
        name: before[name] for name in ("status", "images", "measures")
    }
    again.watch(reference, digest="e" * 64, before=tail(tmp_path))
    ask(again, range(60))  # the model before still had them in hand
    assert (again.health()["status"], again.health()["images"]) == ("too-few", 0)
    again.watch(None, digest=DIGEST)
    ask(again, range(60))
    assert (again.health()["status"], again.health()["images"]) == ("unknown", 60)
    again.close()


def test_health_is_computed_at_most_once_a_second(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a thousand times a second gets the same answer, and the next second a new one."""
    ask(monitor, range(60))
    first = monitor.health()
    ask(monitor, range(60, 70))
    assert monitor.health() is first
    later = time.monotonic() + 1.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert monitor.health()["images"] == 70
    monitor.close()
