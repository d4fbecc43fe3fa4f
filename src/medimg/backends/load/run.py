"""A load test as it runs: the process of the clients, started, told what to do, and listened to."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from medimg.backends.load.load_test import LoadTest, Step, amount
from medimg.errors import ConfigError, EndpointError, MedimgError, UnreachableError
from medimg.inference.answers import read_answer
from medimg.progress import Display, Event, parse

__all__ = ["run_load_test"]

Ask = Callable[[bytes], tuple[str, Mapping[str, str]]]
"""From an image's bytes to the address and the headers of its request."""

WARM_UP_SECONDS = 1.0
_MANY = 1000  # clients from which an endpoint elsewhere asks for consent
_RENEW_SECONDS = 120.0  # a signature of AWS holds for 5 minutes


def run_load_test(
    ask: Ask,
    images: Sequence[bytes],
    *,
    name: str,
    clients: Sequence[int] = (1, 8, 64),
    seconds: float = 10.0,
    patient: bool = True,
    timeout: float = 60.0,
    allow_cost: bool = False,
) -> LoadTest:
    """Has clients in a process of their own ask an endpoint, and returns what they met.

    Args:
        ask: Says where an image is sent, and with what headers; asked again every 2 minutes, since signatures age.
        images: The bodies, sent in turns.
        name: Of the endpoint, for the title.
        clients: That ask at once, a number a step.
        seconds: That each step is measured.
        patient: Whether a client that is refused with 429 or 503 waits as long as Retry-After says, else 1 s; False has
            it ask again at once.
        timeout: Seconds that a client waits for a connection, and for an answer.
        allow_cost: Whether 1,000 clients or more may ask an endpoint that is not on this machine.

    Raises:
        ConfigError: A number that cannot be, no image, or an endpoint elsewhere with very many clients.
        ImageRejected: The endpoint refuses the image.
        EndpointError: The endpoint refuses the first request, or does not speak HTTP.
        UnreachableError: It does not answer at all.
    """
    if not clients or min(clients) < 1:
        raise ConfigError(f"clients={list(clients)}: at least one number, and each at least 1, such as [1, 8, 64]")
    if not seconds > 0 or not timeout > 0:
        raise ConfigError(f"seconds={seconds}, timeout={timeout}: both must be more than 0")
    if not images:
        raise ConfigError("no image to send. Pass image='a.jpeg', several, or None for a generated one")
    command = [sys.executable, "-m", "medimg.backends.load.clients"]
    found: list[Step] = []
    with (
        Display(name) as display,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            crowd = _Process(process, ask, images, display, name)
            for place, number in enumerate(clients):
                step = {
                    "clients": number, "seconds": seconds, "warm_up": WARM_UP_SECONDS, "patient": patient,
                    "timeout": timeout,
                }  # fmt: skip
                if place == 0:
                    # Alone, before thousands ask: so mistakes, and what it may cost, are known in time.
                    _consent(crowd.alone(timeout), clients, seconds, display, allow_cost)
                found.append(crowd.step(step))
                display(Event("log", message=_told(found[-1])))
        except BaseException:
            process.kill()
            raise
    size = sum(map(len, images)) / len(images)
    kind = "an image" if len(images) == 1 else f"{len(images)} images"
    title = f"{name}: {kind} of {size / 1000:,.0f} kB, {seconds:g} s a step" + ("" if patient else ", without patience")
    return LoadTest(tuple(found), title, patient)


def _told(step: Step) -> str:
    waited = "nothing was answered" if step.p99_ms is None else f"p50 {step.p50_ms:,.1f} ms, p99 {step.p99_ms:,.1f} ms"
    return f"{amount(step.clients)}: {step.throughput:,.1f} answers/s, {waited}, {step.failures:,.1f} errors/s"


def _consent(
    alone: Mapping[str, Any], clients: Sequence[int], seconds: float, display: Display, allow_cost: bool
) -> None:
    """Says how many requests will be sent to an endpoint elsewhere, and asks for consent where they are very many."""
    if alone["local"]:
        return
    asked = sum(clients) * seconds / max(alone["seconds"], 1e-3)
    told = f"up to {asked:,.0f} requests to an endpoint that is not on this machine, at {alone['seconds']:.3f} s each"
    if max(clients) >= _MANY and not allow_cost:
        raise ConfigError(
            f"{max(clients):,} clients: {told}. Where requests are billed, or machines added under load, that costs "
            "money. If you mean it: allow_cost=True (medimg load-test --allow-cost)"
        )
    display(Event("warning", message=f"{told}: they are billed where the endpoint is billed by request"))


class _Process:
    """The process of the clients, as this one talks with it."""

    def __init__(
        self, process: subprocess.Popen[str], ask: Ask, images: Sequence[bytes], display: Display, name: str
    ) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self._process = process
        self._ask, self._images, self._display, self._name = ask, images, display, name
        self._renewed = 0.0
        self._tell({"images": [base64.b64encode(image).decode() for image in images]})

    def alone(self, timeout: float) -> Mapping[str, Any]:
        """Has every image asked for once, and returns how long one took and whether the endpoint is on this machine."""
        self._renew()
        self._tell({"alone": {"timeout": timeout}})
        return self._until("log").values

    def step(self, step: Mapping[str, Any]) -> Step:
        """Runs one step and returns what the clients met."""
        self._renew()
        self._tell({"step": step})
        return Step(**self._until("done").values)

    def _renew(self) -> None:
        if time.monotonic() - self._renewed > _RENEW_SECONDS or not self._renewed:
            self._renewed = time.monotonic()
            asked = [self._ask(image) for image in self._images]
            self._tell({"requests": [{"url": url, "headers": dict(headers)} for url, headers in asked]})

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self._in.write(json.dumps(message) + "\n")
            self._in.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _until(self, kind: str) -> Event:
        """Returns the next event of a kind; shows those before it."""
        for line in self._out:
            event = parse(line)
            if event is None:
                continue
            if event.kind == kind:
                return event
            if event.kind == "error":
                raise _failure(event, self._name)
            self._display(event)
            self._renew()
        raise self._ended()

    def _ended(self) -> EndpointError:
        return EndpointError(f"the process of the clients ended with exit code {self._process.wait()}; see above")


def _failure(event: Event, name: str) -> MedimgError:
    """Returns what the first request met, as a request by `endpoint.predict` would have it raised."""
    if "status" not in event.values:
        return UnreachableError(f"the endpoint {name!r} did not answer: {event.message}")
    status, body = int(event.values["status"]), str(event.values["body"])
    if status == 200:
        return EndpointError(f"the endpoint {name!r} answered 200: {body}")
    try:
        read_answer(status, body.encode(), endpoint=name)
    except MedimgError as error:
        return error
    return EndpointError(f"the endpoint {name!r} answered {status}")
