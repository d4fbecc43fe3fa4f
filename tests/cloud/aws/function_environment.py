"""One execution environment of a Lambda function: AWS's own runtime client, asking a Runtime API for its next event."""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from machines.containers import Container

from .account import LogStream, role_credentials
from .cloud import Cloud

__all__ = ["FunctionEnvironment", "FunctionSettings", "Outcome"]

_INIT_SECONDS = 10.0
_LOG_SECONDS = 0.3  # until what a process wrote is surely in its log


@dataclass(frozen=True)
class FunctionSettings:
    """What a function's environments are made of.

    Attributes:
        name: The function's.
        arn: The function's.
        region: Where.
        handler: "module.function".
        role: ARN of its role.
        memory_mb: That it may use.
        timeout_seconds: Of one invocation.
        variables: Of the environment.
        code: Folder of its unzipped code.
        unreadable: A file in it that only its owner may read, which Lambda's user is not; "": none.
    """

    name: str
    arn: str
    region: str
    handler: str
    role: str
    memory_mb: int
    timeout_seconds: int
    variables: Mapping[str, str]
    code: Path
    unreadable: str


@dataclass(frozen=True)
class Outcome:
    """What came of an invocation.

    Attributes:
        payload: The function's answer, or its error as JSON.
        failed: Whether it is an error.
        alive: Whether the environment can be used again.
    """

    payload: bytes
    failed: bool
    alive: bool


class FunctionEnvironment:
    """A process that runs a function, one event at a time.

    Args:
        cloud: The emulator.
        settings: Of the function.
    """

    def __init__(self, cloud: Cloud, settings: FunctionSettings) -> None:
        self._cloud = cloud
        self._settings = settings
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._outcomes: queue.Queue[tuple[bytes, bool]] = queue.Queue()
        self._ready = threading.Event()
        self._init_ms = 0.0
        self._container: Container | None = None
        self._server: ThreadingHTTPServer | None = None
        day = time.strftime("%Y/%m/%d", time.gmtime())
        self._stream = f"{day}/[$LATEST]{uuid.uuid4().hex}"
        self._log = LogStream(settings.region, f"/aws/lambda/{settings.name}", self._stream)

    def invoke(self, event: bytes) -> Outcome:
        """Runs the function with an event; the first time, the environment is started."""
        request, begun = str(uuid.uuid4()), time.monotonic()
        cold = self._container is None
        self._log.write([f"START RequestId: {request} Version: $LATEST"])
        if cold and (refused := self._start()) is not None:
            return Outcome(refused, True, False)
        deadline = begun + self._settings.timeout_seconds + (_INIT_SECONDS if cold else 0.0)
        self._events.put((request, event))
        outcome = self._wait(request, deadline)
        self._report(request, time.monotonic() - begun, cold)
        if not outcome.alive:
            self.close()
        return outcome

    def close(self) -> None:
        """Ends the process."""
        if self._container is not None:
            self._cloud.containers.remove(self._container)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _start(self) -> bytes | None:
        """Starts the process; returns an error where the code cannot be used."""
        settings, cloud = self._settings, self._cloud
        if settings.unreadable:
            message = f"[Errno 13] Permission denied: '/var/task/{settings.unreadable}'"
            self._log.write([f"[ERROR] PermissionError: {message}"])
            return _error("Runtime.ImportModuleError", message)
        self._server = _serve(self)
        self._container = cloud.containers.make("lambda", settings.name)
        environment = {
            **cloud.environment(settings.region),
            **role_credentials(settings.role, settings.name, settings.region),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": settings.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(settings.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{settings.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self._stream,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "LAMBDA_TASK_ROOT": str(settings.code),
            "_HANDLER": settings.handler,
            "TZ": ":UTC",
            "PYTHONPATH": str(settings.code),
            # There the code is on a disk that cannot be written.
            "PYTHONDONTWRITEBYTECODE": "1",
            **settings.variables,
        }
        command = [str(self._container.python), "-m", "awslambdaric", settings.handler]
        self._begun = time.monotonic()
        self._container.start(command, environment, self._log.write, folder=settings.code, read_only=[settings.code])
        return None

    def _wait(self, request: str, deadline: float) -> Outcome:
        assert self._container is not None
        limit_kb = self._settings.memory_mb * 1024
        while True:
            try:
                payload, failed = self._outcomes.get(timeout=0.02)
                return Outcome(payload, failed, self._container.alive)
            except queue.Empty:
                pass
            if time.monotonic() > deadline:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                message = f"{now} {request} Task timed out after {self._settings.timeout_seconds:.2f} seconds"
                self._log.write([message])
                return Outcome(json.dumps({"errorMessage": message}).encode(), True, False)
            if not self._container.alive and self._outcomes.empty():
                status = self._container.wait()
                message = f"RequestId: {request} Error: Runtime exited with error: exit status {status}"
                return Outcome(_error("Runtime.ExitError", message), True, False)
            if _memory_kb(self._container.pid) > limit_kb:
                message = f"RequestId: {request} Error: Runtime exited with error: signal: killed"
                return Outcome(_error("Runtime.OutOfMemory", message), True, False)

    def _report(self, request: str, seconds: float, cold: bool) -> None:
        assert self._container is not None
        used, spent = _memory_kb(self._container.pid) // 1024, seconds * 1000
        init = f"\tInit Duration: {self._init_ms:.2f} ms" if cold else ""
        lines = [
            f"END RequestId: {request}",
            f"REPORT RequestId: {request}\tDuration: {spent - self._init_ms * cold:.2f} ms\tBilled Duration: "
            f"{int(spent) + 1} ms\tMemory Size: {self._settings.memory_mb} MB\tMax Memory Used: {used} MB{init}",
        ]
        timer = threading.Timer(_LOG_SECONDS, self._log.write, (lines,))
        timer.daemon = True
        timer.start()

    # -- what the process asks ----------------------------------------------------------------------------------------

    def next_event(self) -> tuple[str, bytes]:
        """Returns the next event with its request's id; waits for one."""
        if not self._ready.is_set():
            self._init_ms = (time.monotonic() - self._begun) * 1000
            self._ready.set()
        return self._events.get()

    def tell(self, payload: bytes, failed: bool) -> None:
        """Takes the function's answer or error."""
        self._outcomes.put((payload, failed))

    def event_headers(self, request: str) -> Mapping[str, str]:
        """Returns what the process is told with an event."""
        deadline_ms = int((time.time() + self._settings.timeout_seconds) * 1000)
        return {
            "Lambda-Runtime-Aws-Request-Id": request,
            "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": self._settings.arn,
        }


def _serve(environment: FunctionEnvironment) -> ThreadingHTTPServer:
    """Starts the Runtime API of one environment."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request, event = environment.next_event()
            self._answer(200, event, environment.event_headers(request))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            environment.tell(body, self.path.endswith("/error"))
            self._answer(202, b'{"status":"OK"}', {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Length": str(len(body)),
                "Content-Type": "application/json",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


def _memory_kb(pid: int) -> int:
    """Returns what a process keeps in memory and could not read again from a file."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
