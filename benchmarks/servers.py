"""The servers that `serving.py` compares: how each is started, asked, and ended with all its processes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measured import Measured

PEERS = Path(__file__).with_name("peers")
CLIENTS = (1, 8, 64)
ENVIRONMENTS = ("azureml", "litserve", "bentoml")
START_SECONDS = 240.0
JPEG = "image/jpeg"
CORES = os.cpu_count() or 1
Output = Callable[[Mapping[str, Any]], float]


def _row(image: bytes) -> tuple[bytes, str]:
    """Returns an image as the table that MLflow scores."""
    rows = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(image).decode()]]}}
    return json.dumps(rows).encode(), "application/json"


@dataclass
class Server:
    """A server of the comparison.

    Attributes:
        name: In the table.
        command: That starts it; PORT stands for its port.
        path: That is asked.
        body: From the image to the body and its content type.
        output: From its answer to the network's first output.
        headers: Of every request beside the content type.
        patience: How many times as long 64 clients ask: of a slow server, the slowest answers come after a short step.
        found: By clients, the requests a second, p50 and p99 in milliseconds of each round.
    """

    name: str
    command: list[str]
    path: str
    body: Callable[[bytes], tuple[bytes, str]] = lambda image: (image, JPEG)
    output: Output = lambda answer: answer["output"][0]
    headers: dict[str, str] = field(default_factory=dict)
    patience: int = 1
    port: int = 0
    start_seconds: float = 0.0
    memory_mb: float = 0.0
    processes: int = 0
    found: dict[int, list[tuple[float, float, float]]] = field(default_factory=lambda: {n: [] for n in CLIENTS})
    errors: dict[str, int] = field(default_factory=dict)

    def figure(self, clients: int, which: int) -> Measured:
        """Returns the answers a second (0), p50 (1) or p99 (2) of each round at a number of clients."""
        return Measured(tuple(row[which] for row in self.found[clients]))

    @contextlib.contextmanager
    def running(self, image: bytes, environment: Mapping[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Starts it, waits for its first answer, and ends it with all its processes."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [part.replace("PORT", str(self.port)) for part in self.command]
        body, kind = self.body(image)
        with (folder / f"{self.name}.log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=PEERS, stdout=log, stderr=log, start_new_session=True
            )
            try:
                while True:
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        status, _ = self.ask(body, kind)
                        if status == 200:
                            break
                    if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                        raise SystemExit(
                            f"{self.name} did not start:\n{(folder / f'{self.name}.log').read_text()[-3000:]}"
                        )
                    time.sleep(0.01)
                self.start_seconds = time.perf_counter() - began
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 15)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)

    def ask(self, body: bytes, kind: str) -> tuple[int, bytes]:
        """Returns status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", self.path, body, {"Content-Type": kind, **self.headers})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def servers(model: Path, peers: Path | None, folder: Path) -> list[Server]:
    """Returns the servers, of which those whose environment is not in the folder of peers are left out."""
    from medimg.artifact import ModelFolder
    from medimg.key_file import KeyFile

    record = ModelFolder.load(model).record
    answer_class = record.positive or record.classes[0]
    (folder / "log").mkdir()
    key, _ = KeyFile(folder / "keys.json").add("benchmark", limited=False)
    python = sys.executable
    found = [
        Server(
            "medimg",
            [python, "-m", "medimg.serving", "--model", str(model), "--port", "PORT", "--keys",
             str(folder / "keys.json"), "--log-folder", str(folder / "log")],
            "/predict",
            output=lambda answer: answer["probabilities"][answer_class],
            headers={"Authorization": f"Bearer {key}"},
        ),
        Server(
            "mlflow models serve",
            [python, "-m", "mlflow", "models", "serve", "-m", str(folder / "mlflow"), "-p", "PORT", "--env-manager",
             "local"],
            "/invocations",
            body=_row,
            output=lambda answer: answer["predictions"][0][0],
            patience=3,
        ),
        Server("FastAPI + predict", [python, "fastapi_keras.py", "PORT"], "/predict", patience=3),
    ]  # fmt: skip
    commands = {
        "azureml": ["azmlinfsrv", "--entry_script", "azureml_score.py", "--port", "PORT", "--worker_count",
                    str(CORES)],
        "litserve": ["python", "litserve_server.py", "PORT"],
        "bentoml": ["bentoml", "serve", "bentoml_service:Classifier", "--host", "127.0.0.1", "--port", "PORT"],
    }  # fmt: skip
    for name, (program, *options) in commands.items():
        if peers is None:
            continue
        program = str(peers / name / "bin" / program)
        if not Path(program).exists():
            print(f"{name}: {program} is missing; make it with --make", file=sys.stderr)
            continue
        found.append(Server(name, [program, *options], "/score" if name == "azureml" else "/predict"))
    return found


def make(peers: Path) -> None:
    """Makes the environments of the others."""
    for name in ENVIRONMENTS:
        subprocess.run([sys.executable, "-m", "venv", str(peers / name)], check=True)
        requirements = str(PEERS / f"{name}.txt")
        subprocess.run([str(peers / name / "bin" / "pip"), "install", "-q", "-r", requirements], check=True)
