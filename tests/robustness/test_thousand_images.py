"""A folder as hospitals send it: a thousand images, one in a hundred broken, some of shapes that nobody foresaw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medimg.backends import backend
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.preparation import ready_for_training
from medimg.errors import AuditError

SIDE = 16
CONFIG = TrainConfig(
    model="small_cnn", weights=None, image_size=SIDE, epochs=1, batch_size=64, augment=False, early_stopping=None
)
# What is broken is called so, to be found again wherever it must not be.
SECRET = "Mustermann"
WAYS = ("truncated", "empty", "not-an-image", "corrupt", "multi-frame")
SHAPES = {"dot": (1, 1), "line": (1, 60_000), "column": (60_000, 1)}


def write(path: Path, label: int, seed: int, shape: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Writes noise, brighter for label 1."""
    noise = np.random.default_rng(seed).integers(0, 150, shape) + 80 * label
    Image.fromarray(noise.astype(np.uint8)).save(path)


def spoil(path: Path, way: str) -> None:
    """Makes an image of the kind that is rejected so."""
    data = path.read_bytes()
    if way == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "not-an-image":
        path.write_bytes(b"<html>Please log in</html>")
    elif way == "corrupt":
        path.write_bytes(data[:45] + bytes(20) + data[65:])
    else:
        frames = [Image.new("L", (8, 8), shade) for shade in (0, 90)]
        frames[0].save(path, "PNG", save_all=True, append_images=frames[1:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A thousand images of two classes, of which ten are broken in five ways."""
    rng = random.Random(0)
    root = tmp_path / "films"
    for label, name in enumerate(("normal", "pneumonia")):
        (root / name).mkdir(parents=True)
        broken = set(rng.sample(range(497), 5))
        for number in range(497):
            path = root / name / (f"{SECRET}-{number}.png" if number in broken else f"film-{number}.png")
            write(path, label, 1000 * label + number)
        for way, path in zip(WAYS, sorted((root / name).glob(f"{SECRET}*")), strict=True):
            spoil(path, way)
        for number, (kind, shape) in enumerate(SHAPES.items()):
            write(root / name / f"{kind}.png", label, 5000 + 10 * label + number, shape)
    return root


def files(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Yields every file below a folder with what is in it."""
    yield from ((path, path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.slow
def test_a_thousand_images_with_one_in_a_hundred_broken_are_trained_on(
    folder: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each broken one is named to the user with its reason, and to nobody else; a dot and a line are images too."""
    dataset = Dataset.from_folder(folder).split(val=0.2, test=0.2)
    assert len(dataset) == 1000
    local = backend("local")
    job = local.train(dataset, CONFIG)
    told = capsys.readouterr()
    shown = told.out + told.err
    assert "10 of 1,000 images cannot be read (1.0%)" in " ".join(shown.split())
    assert shown.count(SECRET) == 10
    assert job.status == "completed"
    job.report.to_html(own_home / "report.html")
    travelled = [path for path in own_home.rglob("*") if path.is_dir() and path.name in ("packs", "jobs")]
    assert {path.name for path in travelled} == {"packs", "jobs"}
    for path, content in [each for part in travelled for each in files(part)]:
        assert SECRET.encode() not in content, path
        assert SECRET not in path.name
    assert SECRET not in (own_home / "report.html").read_text()


def test_more_broken_images_stop_training_and_the_message_says_how_to_go_on(folder: Path) -> None:
    """Ten are shown with their reasons; nothing is written for a job, nothing is lost, and `allow` goes on."""
    spoil(folder / "normal/dot.png", "empty")
    before = dict(files(folder))
    dataset = Dataset.from_folder(folder).split(val=0.2, test=0.2)
    local = backend("local")
    with pytest.raises(AuditError) as caught:
        local.train(dataset, CONFIG)
    told = str(caught.value)
    assert told.startswith("11 of 1,000 images cannot be read (1.1%): ")
    assert told.count("\n  ") == 11
    assert "\n  and 1 more: dataset.audit().examples\n" in told
    assert told.endswith("If you mean it: backend.train(…, allow=['rejected-images'])")
    assert caught.value.check == "rejected-images"
    assert len(local.jobs()) == 0
    assert dict(files(folder)) == before
    assert len(ready_for_training(dataset, allow=[caught.value.check]).dataset) == 989
