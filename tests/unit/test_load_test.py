"""Load tests: clients in a process of their own against small servers that behave, refuse, hang, lie and drop out."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import math
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.backends.base import Backend
from medimg.backends.load.client import Reference
from medimg.backends.load.load_test import LoadTest, Step
from medimg.backends.load.pictures import bodies, radiograph
from medimg.backends.load.route import Route
from medimg.backends.load.run import _consent, run_load_test
from medimg.backends.load.tally import percentile
from medimg.cli import app
from medimg.data.decode import decode
from medimg.errors import BackendError, ConfigError, EndpointError, ImageRejected, MedimgError, UnreachableError
from medimg.progress import Display

ANSWER = {"probabilities": {"CLEAR": 0.25, "NODULE": 0.75}, "digest": "d1"}
Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Endpoint:
    """A server whose answers a test decides, by the number of the request; None drops the connection."""

    url: str
    reply: Callable[[int], Reply | None]
    asked: list[float] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def test(self, clients: list[int], **options: Any) -> LoadTest:
        """Runs a short load test against it."""
        return run_load_test(
            lambda _: (self.url, {"X-Api-Key": "right"}), [b"image"], name="small", clients=clients,
            **{"seconds": 0.4, **options},
        )  # fmt: skip


def ok(answer: dict[str, Any] = ANSWER) -> Reply:
    """An answer."""
    return 200, {}, json.dumps(answer).encode()


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are short; the clients of theirs need no time to settle."""
    monkeypatch.setattr("medimg.backends.load.run.WARM_UP_SECONDS", 0.05)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server on a free port, a thread a connection."""

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                head, length = line, 0
                while (line := self.rfile.readline()).strip():
                    head += line
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.rfile.read(length)
                with made.lock:
                    made.asked.append(time.monotonic())
                    made.heads.append(head)
                    number = len(made.asked)
                reply = made.reply(number)
                if reply is None:
                    return
                status, headers, body = reply
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
                lines.append(f"Content-Length: {len(body)}")
                self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that left is nobody's error."""

    with Server(("127.0.0.1", 0), Connection) as server:
        made = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/predict?x=1", lambda _: ok())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def test_every_answer_is_counted_once_and_as_long_as_it_took(endpoint: Endpoint) -> None:
    """Against a server that takes 20 ms: four clients get about 200 answers a second, none much sooner."""

    def slow(number: int) -> Reply:
        time.sleep(0.02)
        return ok()

    endpoint.reply = slow
    found = endpoint.test([1, 4])
    one, four = found.steps
    assert (one.clients, four.clients) == (1, 4)
    assert not one.errors and not four.errors
    assert one.p50_ms is not None and one.p50_ms >= 20
    assert one.throughput <= 50
    assert 1.5 * one.throughput < four.throughput <= 200
    assert one.answered + four.answered <= len(endpoint.asked)
    assert one.recovery_seconds is not None and one.recovery_seconds < 5
    assert endpoint.heads[0].startswith(b"POST /predict?x=1 HTTP/1.1\r\n")
    assert b"X-Api-Key: right\r\n" in endpoint.heads[0]


def test_refused_clients_wait_as_long_as_they_are_asked_to_unless_told_otherwise(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of patient clients none comes back within the second of Retry-After; impatient ones do, many times."""
    monkeypatch.setattr("medimg.backends.load.run.WARM_UP_SECONDS", 0.0)

    def busy_for_a_while(number: int) -> Reply:
        alone = number == before + 1
        # For longer than the step; then the server recovers, which the end of a step waits for.
        is_busy = not alone and endpoint.asked[-1] < endpoint.asked[before + 1] + 1.5
        return (503, {"Retry-After": "1"}, b'{"error": "busy"}') if is_busy else ok()

    endpoint.reply = busy_for_a_while
    before = 0
    (patient,) = endpoint.test([3], seconds=0.5).steps
    assert patient.answered == 0 and patient.p50_ms is None
    assert patient.errors.get("HTTP 503", 0) <= 3
    before = len(endpoint.asked)
    (hammering,) = endpoint.test([3], seconds=0.5, patient=False).steps
    assert hammering.errors["HTTP 503"] > 50


def test_failures_are_told_apart_by_kind(endpoint: Endpoint) -> None:
    """Dropped connections, other statuses and what is no JSON; the rest is answered all the same."""
    closing = {"Connection": "close"}
    kinds: list[Reply | None] = [
        ok(), None, (500, {}, b"{}"), (200, {}, b"<html>"), (413, closing, b""), (503, {"Retry-After": "0"}, b""),
        (503, {}, b""),
    ]  # fmt: skip
    endpoint.reply = lambda number: ok() if number == 1 else kinds[number % len(kinds)]
    (step,) = endpoint.test([4], seconds=1.0, patient=False).steps
    assert set(step.errors) == {
        "closed without an answer", "HTTP 500", "not JSON", "HTTP 413", "HTTP 503", "HTTP 503 without Retry-After",
    }  # fmt: skip
    assert step.answered > 0


def test_an_answer_that_differs_from_the_one_before_the_load_is_counted(endpoint: Endpoint) -> None:
    """A probability off by more than 1e-4 is wrong; another digest is another model."""
    wrong = ok({**ANSWER, "probabilities": {"CLEAR": 0.2502, "NODULE": 0.7498}})
    near = ok({**ANSWER, "probabilities": {"CLEAR": 0.25005, "NODULE": 0.74995}})
    other = ok({**ANSWER, "digest": "d2"})
    endpoint.reply = lambda number: ok() if number == 1 else [near, wrong, other][number % 3]
    found = endpoint.test([1])
    (step,) = found.steps
    assert step.answered > 30
    assert step.wrong == pytest.approx(step.answered / 3, abs=1)
    assert step.other_digest == pytest.approx(step.answered / 3, abs=1)
    assert any("not those" in note for note in found.notes)


def test_a_client_gives_up_on_a_server_that_never_answers(endpoint: Endpoint) -> None:
    """After its timeout, on a new connection."""
    hangs = threading.Event()
    hangs.set()

    def hang(number: int) -> Reply:
        while number > 1 and hangs.is_set():
            time.sleep(0.02)
        return ok()

    endpoint.reply = hang
    threading.Timer(2.5, hangs.clear).start()
    (step,) = endpoint.test([2], seconds=1.6, timeout=0.3).steps
    assert step.errors["no answer in time"] >= 2


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ((401, {}, b'{"error": "the API key is missing or wrong"}'), MedimgError, "key is missing or wrong"),
        ((415, {}, b'{"error": "is no image", "code": "not-an-image"}'), ImageRejected, "no image"),
        ((200, {}, b"hello"), EndpointError, "JSON"),
        (None, UnreachableError, "without an answer"),
    ],
)
def test_a_mistake_is_told_before_any_load(
    endpoint: Endpoint, reply: Reply | None, error: type[MedimgError], words: str
) -> None:
    """In the server's own words, after one request."""
    endpoint.reply = lambda _: reply
    with pytest.raises(error, match=words):
        endpoint.test([8])
    assert len(endpoint.asked) == 1


def test_a_port_where_nobody_listens_is_said_to_refuse() -> None:
    """Not a traceback of the clients' process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match="connection refused"):
        run_load_test(lambda _: (f"http://127.0.0.1:{port}/", {}), [b"x"], name="nobody", clients=[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"clients": []}, "clients"), ({"clients": [0]}, "at least 1"), ({"clients": [1], "seconds": 0}, "seconds")],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError, match=words):
        run_load_test(lambda _: ("http://127.0.0.1:1/", {}), [b"x"], name="none", **options)


def test_many_clients_on_an_endpoint_elsewhere_need_consent(capsys: pytest.CaptureFixture[str]) -> None:
    """And few are told how many requests it may come to; on this machine nothing is billed."""
    elsewhere = {"local": False, "seconds": 0.05}
    with Display("small") as display:
        with pytest.raises(ConfigError, match=r"200,000 requests.*allow_cost=True"):
            _consent(elsewhere, [1000], 10.0, display, False)
        _consent(elsewhere, [1000], 10.0, display, True)
        assert "up to 200,000 requests" in capsys.readouterr().err
        _consent({"local": True, "seconds": 0.05}, [1000], 10.0, display, False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_what_is_behind_a_proxy_on_this_machine_is_elsewhere(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's cloud gets a thousand clients without consent because a proxy runs here; that gets its password."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            connection, _ = proxy.accept()
            with connection:
                heads.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 407 X\r\n\r\n")

        monkeypatch.setenv("https_proxy", f"{scheme}ward%203:p%40ss@127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "localhost")
        route = Route("https://runtime.sagemaker.invalid/endpoints/chest")
        assert not route.is_local
        assert Route("https://localhost/predict").is_local
        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(ConnectionError, match=r"the proxy refuses to connect to runtime\.sagemaker"):
            asyncio.run(route.connect(asyncio.Protocol(), 0))
        thread.join()
    user = base64.b64encode(b"ward 3:p@ss").decode()
    assert heads[0].splitlines()[2] == f"Proxy-Authorization: Basic {user}".encode()


def test_an_endpoint_that_is_busy_at_first_is_asked_again(endpoint: Endpoint) -> None:
    """With the image that all later answers are compared with, before the load."""
    endpoint.reply = lambda number: (503, {}, b"{}") if number == 1 else ok()
    (step,) = endpoint.test([1], seconds=0.2).steps
    assert step.answered > 0 and step.wrong == 0


def test_the_program_writes_table_csv_and_page(endpoint: Endpoint, tmp_path: Path) -> None:
    """From a URL without a route, with a key from a file; the picture is in the page."""
    (tmp_path / "key").write_text("right\n")
    url = endpoint.url.removesuffix("/predict?x=1")
    files = ["--csv", tmp_path / "load.csv", "--html", tmp_path / "load.html", "--png", tmp_path / "load.png"]
    given = ["load-test", url, "--clients", "1,2", "--seconds", "0.3", "--key-file", tmp_path / "key", *files]
    said = CliRunner().invoke(app, [str(each) for each in given])
    assert said.exit_code == 0, said.output
    assert "answers/s" in said.stdout
    assert endpoint.heads[0].startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"Authorization: Bearer right\r\n" in endpoint.heads[0]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "load.csv").read_text())))
    assert [row["clients"] for row in rows] == ["1", "2"]
    assert "<svg" in (tmp_path / "load.html").read_text()
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def step(clients: int, throughput: float, **others: Any) -> Step:
    """A step of one second."""
    latency = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "max_ms"), 1000 * clients / throughput)
    return Step(clients, 1.0, int(throughput), **latency, **others)


def test_the_knee_is_the_fewest_clients_with_nine_tenths_of_the_best() -> None:
    """More of them mostly wait; where nothing was answered there is none."""
    assert LoadTest((step(1, 100), step(8, 295), step(64, 300), step(512, 320))).knee == 8
    assert LoadTest((step(1, 100), step(8, 200), step(64, 400))).knee == 64
    assert LoadTest((Step(1, 1.0, 0, None, None, None, None),)).knee is None


def test_what_limited_the_test_itself_is_said() -> None:
    """Files, and clients that had no more time."""
    found = LoadTest(
        (
            step(8, 300, busy=0.97),
            step(64, 300, limit="10,000 were wanted, but a process may open 64 files"),
            step(512, 300),
        )
    )
    assert any("64 clients asked: 10,000 were wanted" in note for note in found.notes)
    assert any("At 8 clients the clients' own process was busy" in note for note in found.notes)
    assert any("At 512 clients answers took nearly as long" in note for note in found.notes)
    assert "10,000 were wanted" in repr(found)
    assert "10,000 were wanted" in found._repr_html_()


def test_percentiles_are_values_that_were_measured() -> None:
    """By nearest rank."""
    ordered = [float(value) for value in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.5) == 7
    assert math.isnan(percentile([], 0.5))


def test_answers_of_servers_that_are_not_ours_are_not_judged() -> None:
    """Without probabilities and digest there is nothing to compare."""
    reference = Reference({"predictions": [0.5]})
    assert not reference.differs({"predictions": [0.1]})
    assert not reference.is_of_another_model({"digest": "d"})
    assert Reference(ANSWER).differs({**ANSWER, "probabilities": None})


def test_what_is_sent_is_a_jpeg_without_anything_but_pixels(phantoms: Path) -> None:
    """Of a file, of several, and the generated radiograph, which is as large as a clinic's."""
    file = min(phantoms.glob("test/NODULE/*"))
    (one,) = bodies(file)
    assert bodies([file, file.read_bytes()]) == [one, one]
    assert one[:2] == b"\xff\xd8" and b"phantom" not in one
    generated = radiograph()
    assert decode(generated, name="generated").shape == (970, 1300)
    assert 150_000 < len(generated) < 250_000


def test_a_local_endpoint_is_asked_by_its_name_with_its_own_key(trained: ModelFolder, phantoms: Path) -> None:
    """The real server, from the handle and from the command line; every answer is the one before the load."""
    file = min(phantoms.glob("test/NODULE/*"))
    with backend("local").deploy(trained, name="loaded") as deployed:
        (step,) = deployed.load_test([3], seconds=0.5, image=file).steps
        assert step.answered > 0
        assert (step.wrong, step.other_digest, dict(step.errors)) == (0, 0, {})
        asked = ["load-test", "loaded", "--clients", "2", "--seconds", "0.3", "--image", str(file)]
        said = CliRunner().invoke(app, asked)
        assert said.exit_code == 0, said.output
        assert CliRunner().invoke(app, [*asked, "--key-file", "key"]).exit_code == 2


def test_a_backend_that_cannot_be_load_tested_says_what_to_do_instead() -> None:
    """An adapter need not know how its endpoints are asked over HTTP."""
    with pytest.raises(BackendError, match="medimg load-test URL --key-file FILE"):
        Backend._http_request(backend("local"), "any", b"")
