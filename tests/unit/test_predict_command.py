"""`medimg predict` on a folder: a table in a file, and what is on the screen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.cli import app
from medimg.data.dataset import Dataset
from medimg.inference.predictions import Predictions


def says(*arguments: object) -> Result:
    """Returns what the program says."""
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two folders, of which one cannot be read."""
    root = tmp_path_factory.mktemp("ward")
    for number, path in enumerate(sorted(phantoms.glob("test/*/*"))[:24]):
        target = root / f"day {number % 2}" / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_a_folder_becomes_a_table_that_the_library_reads(trained: ModelFolder, folder: Path, tmp_path: Path) -> None:
    """CSV and Parquet hold the same, with the names of the files; the exit code says that one was rejected."""
    tables = []
    for name in ("out.csv", "out.parquet"):
        answer = says(folder, "--model", trained.path, "--out", tmp_path / name)
        assert answer.exit_code == 1, answer.output
        assert "        1  rejected\n" in answer.stdout and "25  images in" in answer.stdout
        assert "not-an-image" in answer.stdout
        assert not (tmp_path / f"{name}.part").exists()
        read = Predictions.from_csv if name.endswith(".csv") else Predictions.from_parquet
        tables.append(read(tmp_path / name))
    assert tables[0] == tables[1]
    dataset = Dataset.from_images(folder)
    assert {dataset[id].path.name for id in tables[0].rejected} == {"broken.png"}
    for id in tables[0].ids:
        assert tables[0][id].probabilities == trained.predict(dataset[id].path).probabilities
    assert str(folder / "broken.png") in (tmp_path / "out.csv").read_text()


def test_where_nothing_can_be_read_the_table_says_so(trained: ModelFolder, tmp_path: Path) -> None:
    """Yesterday's does not stay: whoever reads it would take its answers for today's."""
    (tmp_path / "ward").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "ward" / name).write_bytes(b"no picture")
    for name in ("out.csv", "out.parquet"):
        (tmp_path / name).write_text("yesterday's")
        answer = says(tmp_path / "ward", "--model", trained.path, "--out", tmp_path / name)
        assert answer.exit_code == 1 and "        2  rejected\n" in answer.stdout
        read = Predictions.from_csv if name.endswith(".csv") else Predictions.from_parquet
        table = read(tmp_path / name)
        assert (len(table), set(table.rejected.values())) == (0, {"not-an-image"})
        record = trained.record
        assert (table.classes, table.task, table.positive) == (record.classes, record.task, record.positive)


def test_without_an_output_the_first_are_shown_and_all_are_counted(trained: ModelFolder, folder: Path) -> None:
    """More than a screen holds; --flat reads no folder in the folder."""
    answer = says(folder, "--model", trained.path)
    assert answer.exit_code == 1
    assert (
        answer.stdout.count("/day ") == 9 and answer.stdout.count("/broken.png ") == 2
    )  # first, and among the rejected
    assert "        1  rejected\n" in answer.stdout
    assert "--out FILE.csv" in answer.stdout
    (name, threshold) = next(iter(trained.record.thresholds.items()))
    assert f"called positive: {name} from {threshold:.3f}\n" in answer.stdout
    flat = says(folder, "--model", trained.path, "--flat")
    assert flat.exit_code == 1 and flat.stdout.count(".png") == 1


def test_interrupted_it_says_where_it_goes_on(
    trained: ModelFolder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C costs nothing of what was answered."""
    from medimg.inference.journal import Journal

    add, added = Journal.add, 0

    def interrupted(journal: Journal, *given: object) -> None:
        nonlocal added
        add(journal, *given)  # type: ignore[arg-type]
        added += 1
        if added == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", interrupted)
    answer = says(folder, "--model", trained.path, "--out", tmp_path / "out.csv")
    assert answer.exit_code == 130
    assert "out.csv.part: the same command goes on from there" in answer.stderr
    assert not (tmp_path / "out.csv").exists()
    again = says(folder, "--model", trained.path, "--out", tmp_path / "out.csv")
    assert "goes on after 7 images" in again.stderr
    assert len(Predictions.from_csv(tmp_path / "out.csv")) == 24


def test_an_endpoint_gives_the_same_table(trained: ModelFolder, folder: Path, tmp_path: Path) -> None:
    """Several images are on their way at once; the server's decisions are those of the model."""
    says(folder, "--model", trained.path, "--out", tmp_path / "here.csv")
    with backend("local").deploy(trained, name="ward-server"):
        answer = says(folder, "--endpoint", "ward-server", "--out", tmp_path / "there.csv")
        shown = json.loads(says(folder / "day 0" / "0.png", "--endpoint", "ward-server", "--json").stdout)
    assert answer.exit_code == 1, answer.output
    here, there = Predictions.from_csv(tmp_path / "here.csv"), Predictions.from_csv(tmp_path / "there.csv")
    assert (there.ids, there.decided, there.rejected) == (here.ids, here.decided, here.rejected)
    assert abs(there.probabilities - here.probabilities).max() <= 1e-6
    assert shown[0]["image"] == str(folder / "day 0" / "0.png")
