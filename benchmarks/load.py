"""The local endpoint under load: 1 to 10,000 clients, a worker that is killed, memory, and how soon it is itself again.

    KERAS_HOME=… python benchmarks/load.py DATA [--clients 1,8,64,512,1000,5000,10000] [--seconds 10] [--model FOLDER]

DATA holds chestxray/kaggle224 and chestxray/originals, `$KERAS_HOME/models` MobileNetV2 (alpha 0.35, ImageNet). The
model is trained on the first, and asked with radiographs of the second as JPEGs; the endpoint asks for its key. Writes
docs/images/load.png and prints the table, the errors by kind, the memory of the front process and of the workers
before, at the peak and after, and what came of killing workers: every answer is compared with the one before the load.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "studies")]

from processes import processes_of, pss_mb
from real_data import PRETRAINED, chest

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "load.png"
MOST_IMAGES = 4
KILLS, KILL_EVERY = 5, 2.0


class Memory(threading.Thread):
    """Watches the processes of a server, twice a second.

    Attributes:
        first: Proportional set sizes in MB at the beginning: of the front process, the largest worker, and all of them.
        peak: The largest of each since.
    """

    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self._leader = leader
        self._stop_asked = threading.Event()
        self.first = self.peak = self.now()

    def now(self) -> tuple[float, float, float]:
        """Returns the MB of the front process, of the largest worker, and of all of them."""
        sizes = {pid: pss_mb(pid) for pid in processes_of(self._leader)}
        front = front_of(self._leader)
        others = [size for pid, size in sizes.items() if pid not in (front, self._leader)]
        return sizes.get(front, 0.0), max(others, default=0.0), sum(sizes.values())

    def run(self) -> None:
        """Looks until told to stop."""
        while not self._stop_asked.wait(0.5):
            self.peak = tuple(map(max, self.peak, self.now()))  # type: ignore[assignment]

    def stop(self) -> None:
        """Ends it."""
        self._stop_asked.set()
        self.join()


def front_of(leader: int) -> int:
    """Returns the process that listens: the supervisor's child."""
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    return int(children[0]) if children else leader


def workers_of(leader: int) -> list[int]:
    """Returns the processes that decode and predict."""
    front = front_of(leader)
    return [pid for pid in processes_of(leader) if pid not in (front, leader)]


def killing(leader: int) -> tuple[threading.Thread, list[int]]:
    """Returns a thread that kills a worker every other second, and whom it has killed."""
    killed: list[int] = []

    def kill() -> None:
        for _ in range(KILLS):
            time.sleep(KILL_EVERY)
            with contextlib.suppress(OSError, IndexError):
                victim = workers_of(leader)[-1]
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    return threading.Thread(target=kill, daemon=True), killed


def main() -> None:
    """Deploys the model, asks it, and deletes it again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--clients", default="1,8,64,512,1000,5000,10000")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--model", type=Path, help="default: trained on the radiographs")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        measure(given)


def measure(given: argparse.Namespace) -> None:
    """Prints the figures of the endpoint."""
    import medimg
    from medimg.artifact import ModelFolder
    from medimg.backends.load.pictures import bodies
    from medimg.inference.predictor import TOLERANCE

    local = medimg.backend("local")
    if given.model is not None:
        model = ModelFolder.load(given.model)
    else:
        model = local.train(chest(given.data), PRETRAINED.model_copy(update={"epochs": 8}), name="chest").model
    files = sorted((given.data / "chestxray" / "originals").rglob("*.jpeg"), key=lambda file: file.stat().st_size)
    images = [str(file) for file in files[-3 - MOST_IMAGES : -3]]  # of the largest but three, as clinics have them
    with local.deploy(model, name="load") as endpoint:
        for body in bodies(images):
            expected, found = model.predict(body).probabilities, local._invoke("load", body)["probabilities"]
            # What every later answer is compared with is itself right.
            assert all(abs(found[name] - value) <= TOLERANCE for name, value in expected.items())
        leader = int((local._home / "endpoints" / "load" / "pids").read_text().split()[0])
        memory = Memory(leader)
        memory.start()
        found = endpoint.load_test([int(n) for n in given.clients.split(",")], seconds=given.seconds, image=images)
        memory.stop()
        print(found)
        for step in found.steps:
            each = 1e3 * step.busy / max(step.throughput + step.failures, 1e-9)
            print(f"{step.clients:>6} clients took {step.busy:.2f} of a core, {each:.3f} ms a request")
        time.sleep(2)
        for what, sizes in (("before", memory.first), ("peak", memory.peak), ("after", memory.now())):
            print(f"memory {what}: front {sizes[0]:,.0f} MB, largest worker {sizes[1]:,.0f} MB, all {sizes[2]:,.0f} MB")
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        given.picture.write_bytes(found.figure().png())
        thread, killed = killing(leader)
        thread.start()
        under_fire = endpoint.load_test([64], seconds=KILLS * KILL_EVERY + 2, image=images)
        thread.join()
        (step,) = under_fire.steps
        print(under_fire)
        print(
            f"{len(killed)} workers killed under load: {step.answered:,} answers, {step.wrong} wrong, "
            f"{step.other_digest} of another model, refused or failed: {dict(step.errors) or 'none'}"
        )


if __name__ == "__main__":
    main()
