"""medimg's server side by side with others, on this machine: the same network, the same image, clients of their own.

    python benchmarks/serving.py [--peers FOLDER] [--make] [--rounds 3] [--seconds 5] [--only medimg,litserve,…]

`--make` makes FOLDER's environments from `benchmarks/peers/*.txt` (once, minutes). MLflow and FastAPI run in this one,
and alone where there is no FOLDER.
The network is MobileNetV2 (alpha 1.0, random weights) at 224 pixels; the image a generated radiograph of 1300×970
pixels, a JPEG of about 200 kB. All servers stay up and are asked in turns, at 1, 8 and 64 clients; the table has the
medians of the rounds, each in another random order. All have a process a core where they can have several; all decode
the JPEG at a half, as medimg does, and get it as the raw body, but MLflow, whose scoring takes JSON with base64. medimg
runs as it is deployed: it asks for a key, the owner's, which no rate is set for, logs every request, and compares the
images with those of validation; the others do none of that. Each is asked once before, alone: its
output must be the network's within 1e-3 for the pixels that it makes of the image. The floor is decoding and inference
alone in a process a core, in the same turns, without clients on the same cores. Seconds of a start are until the first
answer, the median of as many of each server; memory is the proportional set size of all processes of a server after the
load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measured import Measured, Row, Table, some
from processes import processes_of, pss_mb
from random_network import trained
from servers import CLIENTS, CORES, ENVIRONMENTS, PEERS, Server, make, servers

MOST = max(CLIENTS)
FLOOR_SHARE = 0.65
SLOW_GOAL = 8.0  # against servers that answer with Keras
TOLERANCE = 1e-3


def floor(model: str, image: str, seconds: str) -> None:
    """Decodes and predicts for so long with one thread, and prints how many images a second that were."""
    from medimg.artifact import ModelFolder
    from medimg.inference.predictor import Predictor
    from medimg.inference.runtimes import LiteRTRuntime

    folder, body = ModelFolder.load(Path(model)), Path(image).read_bytes()
    predictor = Predictor(folder, runtime=LiteRTRuntime(folder.export("litert"), workers=1))
    predictor.predict(body)
    print("ready", flush=True)
    sys.stdin.readline()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < float(seconds):
        predictor.predict(body)
        count += 1
    print(count / (time.perf_counter() - began))


def floor_of_all(model: Path, image: Path, seconds: float) -> float:
    """Returns the images a second of a process a core that does nothing else."""
    command = [sys.executable, __file__, "floor", str(model), str(image), str(seconds)]
    found = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(CORES)]
    for process in found:
        assert process.stdout is not None
        process.stdout.readline()
    for process in found:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in found)


def true_outputs(model: Path, image: bytes) -> tuple[float, float]:
    """Returns the probability that medimg must give, and the network's output that the others must.

    Theirs is for pixels that Pillow decodes and resizes: they may differ from medimg's by one count of 255. Random
    networks make much of that, trained ones little.
    """
    import numpy as np

    sys.path.insert(0, str(PEERS))
    from network import opened, prepared

    from medimg.artifact import ModelFolder
    from medimg.inference.predictor import Predictor

    predictor = Predictor(ModelFolder.load(model))
    ours = predictor.prepare(image)
    theirs = prepared(opened(image), (1, *ours.shape))[0].astype(np.uint8)
    difference = np.abs(ours.astype(int) - theirs)
    print(f"pixels of the two ways: at most {difference.max()} of 255 apart, {difference.mean():.2f} in the mean")
    assert difference.max() <= 1
    output, of_black = (float(predictor.runtime.outputs(each[None])[0, 0]) for each in (theirs, np.zeros_like(theirs)))
    assert abs(output - of_black) > 3 * TOLERANCE, "the network does not look at the image: agreement would say nothing"
    record = predictor.model.record
    return predictor.predict(image).probabilities[record.positive or record.classes[0]], output


def measure(server: Server, image: bytes, clients: int, seconds: float) -> None:
    """Adds one round at a number of clients."""
    from medimg.backends.load.run import run_load_test

    body, kind = server.body(image)
    headers = {"Content-Type": kind, **server.headers}
    seconds *= server.patience if clients == MOST else 1
    url = f"http://127.0.0.1:{server.port}{server.path}"
    step = run_load_test(lambda _: (url, headers), [body], name=server.name, clients=[clients], seconds=seconds).steps[
        0
    ]
    server.found[clients].append((step.throughput, step.p50_ms or 0.0, step.p99_ms or 0.0))
    for what, count in step.errors.items():
        server.errors[what] = server.errors.get(what, 0) + count
    if step.wrong:
        server.errors["wrong answer"] = server.errors.get("wrong answer", 0) + step.wrong


def table(all_servers: list[Server], floors: list[float], size: int) -> Table:
    """Returns medimg beside the others and the floor."""
    mine, *others = sorted(all_servers, key=lambda server: server.name != "medimg")
    floor = Measured(tuple(floors))
    rows = [
        Row(f"answers/s, {amount(n)}", mine.figure(n, 0), "decoding and inference alone", floor, unit="answers/s",
            goal=None if n == 1 else FLOOR_SHARE, more=True)
        for n in CLIENTS
    ]  # fmt: skip
    for other in others:
        slow = other.patience > 1
        rows += [
            Row(f"answers/s, {amount(n)}", mine.figure(n, 0), other.name, other.figure(n, 0), unit="answers/s",
                goal=(SLOW_GOAL if slow else 1.0) if n == MOST else None, more=True)
            for n in CLIENTS
        ]  # fmt: skip
        rows.append(
            Row(f"p99, {amount(MOST)}", mine.figure(MOST, 2), other.name, other.figure(MOST, 2), unit="ms",
                goal=None if slow else 1.0)
        )  # fmt: skip
    notes = [
        f"{server.name}: p50 {server.figure(1, 1).median:,.1f} ms at 1 client, first answer after "
        f"{server.start_seconds:.2f} s, {server.memory_mb:,.0f} MB in {server.processes} processes, errors: "
        f"{', '.join(f'{kind} {count}' for kind, count in server.errors.items()) or 'none'}"
        for server in (mine, *others)
    ]
    notes.append("medimg with the owner's key, the request log and the watch for drift, the others without")
    if missing := [name for name in ENVIRONMENTS if name not in {server.name for server in others}]:
        notes.append(f"left out: {', '.join(missing)}, which need --peers FOLDER and, once, --make")
    compared = (
        f"Servers of one MobileNetV2 (224 pixels, float32) asked in turns with a JPEG of {size:,} bytes, by clients on "
        f"the same {CORES} cores; each has a process a core where it can, and decodes the JPEG at a half. Raw bodies, "
        "but base64 in JSON for MLflow."
    )
    return Table("Serving", compared, tuple(rows), tuple(notes), ("mlflow", "fastapi", "uvicorn"))


def amount(clients: int) -> str:
    """Returns how many clients, in words."""
    return "1 client" if clients == 1 else f"{clients} clients"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder of the other servers' environments")
    parser.add_argument("--make", action="store_true", help="make them first")
    parser.add_argument("--rounds", type=some, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round, server and number of clients")
    parser.add_argument("--only", default="", help="names of servers, with commas; medimg is always there")
    parser.add_argument("--model", type=Path, help="another model folder, of two classes")
    parser.add_argument("--starts", type=some, default=3, help="of each server, for the median")
    given = parser.parse_args()
    if given.make:
        make(given.peers or parser.error("--make needs --peers FOLDER"))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        os.environ["MEDIMG_HOME"] = str(folder / "home")
        found = run(given, folder, stack)
    raise SystemExit(found.print())


def run(given: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> Table:
    """Starts the servers, measures them in turns, and returns what they gave."""
    from medimg.backends.load.pictures import radiograph

    model = given.model or trained(folder)
    image = radiograph()
    (folder / "image.jpeg").write_bytes(image)
    print(f"image: {len(image):,} bytes, {CORES} cores", flush=True)
    subprocess.run([sys.executable, "mlflow_model.py", str(folder / "mlflow")], cwd=PEERS, check=True)
    environment = {
        "PEER_LITERT": str(next((model / "exports").glob("**/*.tflite"))), "PEER_KERAS": str(model / "model.keras"),
        "PEER_CODE": str(PEERS), "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }  # fmt: skip
    wanted = {"medimg", *given.only.split(",")} if given.only else None
    found = servers(model, given.peers, folder)
    if wanted is not None and (unknown := wanted - {each.name for each in found}):
        raise SystemExit(f"--only {','.join(sorted(unknown))}: there is {', '.join(each.name for each in found)}")
    chosen = [each for each in found if wanted is None or each.name in wanted]
    probability, output = true_outputs(model, image)
    leaders: dict[str, int] = {}
    for server in chosen:
        starts = []
        for _ in range(given.starts - 1):
            with server.running(image, environment, folder):
                starts.append(server.start_seconds)
        leaders[server.name] = stack.enter_context(server.running(image, environment, folder)).pid
        server.start_seconds = statistics.median([*starts, server.start_seconds])
        status, answer = server.ask(*server.body(image))
        given_output = server.output(json.loads(answer))
        expected = probability if server.name == "medimg" else output
        print(
            f"{server.name}: first answer after {server.start_seconds:.2f} s; {given_output:.5f} for {expected:.5f}",
            flush=True,
        )
        assert status == 200 and abs(given_output - expected) <= TOLERANCE, f"{server.name} answers something else"
    floors = []
    for number in range(given.rounds):
        floors.append(floor_of_all(model, folder / "image.jpeg", given.seconds))
        for server in random.Random(number).sample(chosen, len(chosen)):  # noqa: S311 - no secret
            for clients in CLIENTS:
                measure(server, image, clients, given.seconds)
    for server in chosen:
        pids = processes_of(leaders[server.name])
        server.memory_mb, server.processes = sum(map(pss_mb, pids)), len(pids)
    return table(chosen, floors, len(image))


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        floor(*sys.argv[2:])
    else:
        main()
