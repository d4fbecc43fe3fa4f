"""The first process of the emulator's TensorFlow Serving image; it does what AWS's does, in its order.

Finds the SavedModels, starts the model server, waits until it is ready, then starts the Python service in front, with
`code` and `code/lib` on its path. AWS's image has TensorFlow Serving's own binary and nginx; here a small server that
runs the SavedModel with TensorFlow takes the binary's place, and nothing nginx's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MODEL = Path(os.environ.get("MEDIMG_ROOT", "/opt/ml")) / "model"
READY_SECONDS = 120.0


def find_models(root: Path) -> Iterator[Path]:
    """Yields the folders that hold numbered versions of a SavedModel, in the order of the disk."""
    seen = set()
    for file in root.rglob("saved_model.pb"):
        # As AWS's: a path of at least six parts, of which /opt/ml/model is four.
        parts = 4 + len(file.relative_to(root).parts)
        if parts >= 6 and re.fullmatch(r"\d+", file.parent.name) and file.parents[1] not in seen:
            seen.add(file.parents[1])
            yield file.parents[1]


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_model(port: int, name: str, server: subprocess.Popen[bytes]) -> None:
    """Returns when the model server says that the model is available."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit("the model server has ended")
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/v1/models/{name}") as answer:
                if all(each["state"] == "AVAILABLE" for each in json.load(answer)["model_version_status"]):
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the model {name} was not available within {READY_SECONDS:g} s")


def main() -> None:
    """Starts both servers and ends when one of them does."""
    models = list(find_models(MODEL))
    if not models:
        raise SystemExit("ValueError: no SavedModel bundles found!")
    name = os.environ.get("SAGEMAKER_TFS_DEFAULT_MODEL_NAME", models[0].name)
    rest_port = free_port()
    versions = {model.name: str(max(model.iterdir(), key=lambda version: int(version.name))) for model in models}
    server = subprocess.Popen([sys.executable, str(HERE / "model_server.py"), str(rest_port), json.dumps(versions)])
    wait_for_model(rest_port, name, server)

    code = MODEL / "code"
    path = [str(code)]
    if (code / "lib").is_dir():
        path.append(str(code / "lib"))
        if (code / "requirements.txt").exists():
            print(f"loading modules in '{code / 'lib'}', ignoring requirements.txt", flush=True)
    elif (code / "requirements.txt").exists():
        print("installing packages from requirements.txt...", flush=True)
        command = [sys.executable, "-m", "pip", "install", "-r", str(code / "requirements.txt")]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("failed to install required packages.")
    service = subprocess.Popen(
        [sys.executable, str(HERE / "python_service.py")],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(path),
            "TFS_GRPC_PORTS": "9000",
            "TFS_REST_PORTS": str(rest_port),
            "TFS_DEFAULT_MODEL_NAME": name,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        },
    )

    def stop(*_: object) -> None:
        service.terminate()
        server.terminate()

    signal.signal(signal.SIGTERM, stop)
    status = service.wait()
    server.terminate()
    raise SystemExit(status)


if __name__ == "__main__":
    main()
