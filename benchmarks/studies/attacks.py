"""What a real server gives to those who attack it: each attack, what it got, whether others are answered, and memory.

    python benchmarks/studies/attacks.py [MODEL] [--only REGEX] [--quick]

MODEL is a model folder; without it a small one is trained. The attacks are those of tests/robustness/attack_list.py;
with --quick those that wait for a time limit are left out. Megabytes are resident memory, after each attack, of the
front process and of the largest worker. The exit status is 1 where an attack got what it may not get, or left a server
that does not answer.
"""

from __future__ import annotations

import re
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "robustness"))

from attack_list import ATTACKS, Attack
from attacked import Target, served
from PIL import Image

import medimg
from medimg.data.synthetic import write_phantoms

WIDTH = 62
QUICK_SECONDS = 15.0  # attacks that take longer are left out


def small_model(folder: Path) -> Path:
    """Returns the folder of a small model, trained on phantoms."""
    dataset = medimg.Dataset.from_folder(write_phantoms(folder / "phantoms", size=64), group=r"(patient\d+)")
    config = medimg.TrainConfig(
        model="small_cnn", weights=None, image_size=64, epochs=2, batch_size=16, augment=False, early_stopping=None
    )
    return medimg.backend("local").train(dataset, config).model.path


def tried(target: Target, one: Attack) -> bool:
    """Tries one attack, prints its line and returns whether the server held."""
    got = one.run(target)
    alive = target.answers()
    held = alive and not one.succeeds(got)
    front, worker = target.memory_mb()
    told = f"{got[:60]:60} {'yes' if alive else 'NO':>7} {front:6.0f} {worker:6.0f}"
    print(f"{one.name[:WIDTH]:{WIDTH}} {told}{'' if held else '  NOT EXPECTED'}", flush=True)
    return held


def main() -> int:
    """Prints the table; returns 1 where the server did not hold."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    chosen = [one for one in ATTACKS if re.search(asked.only, one.name)]
    if asked.quick:
        chosen = [one for one in chosen if one.seconds <= QUICK_SECONDS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = asked.model or small_model(folder)
        picture = folder / "image.png"
        Image.linear_gradient("L").save(picture)
        with served(model, folder / "server", picture.read_bytes(), ["--url-host", "localhost"]) as target:
            front, worker = target.memory_mb()
            print(f"{'attack':{WIDTH}} {'what it got':60} answers  front worker (MB)")
            print(f"{'(before)':{WIDTH}} {'':60} {'yes' if target.answers() else 'NO':>7} {front:6.0f} {worker:6.0f}")
            held = [tried(target, one) for one in chosen]
            front, worker = target.memory_mb(peak=True)
            print(f"peak: front {front:.0f} MB, largest of its processes {worker:.0f} MB")
            alive = target.process.poll() is None
    print(f"{sum(held)} of {len(held)} attacks got no more than they may; the process {'lives' if alive else 'ENDED'}")
    return 0 if all(held) and alive else 1


if __name__ == "__main__":
    sys.exit(main())
