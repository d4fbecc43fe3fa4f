"""The package as users get it: installed, run once from end to end, and its predictor where hardly anything is.

With `MEDIMG_WHEEL` (as CI sets it) the wheel of that path is installed by pip into environments of its own. Without,
the same checks run on this environment, and the small one is put together from its packages: that needs no network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WHEEL = os.environ.get("MEDIMG_WHEEL")
SMALL = ("numpy", "pillow", "pydantic", "ai-edge-litert")
ABSENT = ("tensorflow", "keras", "sklearn", "pandas", "matplotlib", "mlflow", "h5py", "fastapi", "rich", "typer")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def run(*command: str | Path, cwd: Path) -> str:
    """Returns what a command wrote; nothing of this process's own settings reaches it."""
    ours = ("MEDIMG_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def new_environment(place: Path, *requirements: str) -> Path:
    """Returns the Python of a new environment with these packages from the registry, in the tested versions."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *requirements, cwd=place)
    return python


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the package and all that it needs."""
    if WHEEL is None:
        return Path(sys.executable)
    return new_environment(tmp_path_factory.mktemp("full") / "venv", WHEEL)


@dataclass(frozen=True)
class Demo:
    """What `medimg demo --keep` left."""

    folder: Path
    output: str

    @property
    def model(self) -> Path:
        """The folder of the model that it trained."""
        (model,) = (self.folder / "home" / "jobs").glob("*/out/model")
        return model


@pytest.fixture(scope="module")
def demo(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once."""
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder, run(python.parent / "medimg", "demo", "--keep", "--folder", folder, cwd=folder))


def test_the_installed_package_imports_and_tells_its_version(python: Path, tmp_path: Path) -> None:
    """The metadata, the module and the program agree, and the files beside the code came along."""
    code = (
        "import medimg, importlib.metadata as m, importlib.resources as r; "
        "print(medimg.__version__, m.version('medimg'), (r.files('medimg') / 'py.typed').is_file(), "
        "(r.files('medimg') / 'evaluation' / 'page.css').is_file(), "
        "(r.files('medimg') / 'serving' / 'web' / 'page' / 'index.html').is_file(), medimg.__file__)"
    )
    version, published, typed, style, page, file = run(python, "-c", code, cwd=tmp_path).split(maxsplit=5)
    assert version == published
    assert (typed, style, page) == ("True", "True", "True")
    assert run(python.parent / "medimg", "--version", cwd=tmp_path) == f"medimg {version}\n"
    if WHEEL is not None:
        assert Path(file).is_relative_to(python.parents[1]), "the wheel is tested, not the working tree"


def test_the_demo_learns_reports_serves_and_leaves_no_server(demo: Demo) -> None:
    """One run goes through every verb, and its small network is far better than chance on test."""
    found = re.search(r"^ +auroc +(\S+)", demo.output, re.MULTILINE)
    assert found is not None, demo.output
    assert float(found[1]) > 0.9
    assert "demo/1" in demo.output, "a registered version"
    assert len(re.findall(r"│ patient\d+-\d\.png +│", demo.output)) == 6, "answers of the endpoint"
    assert re.search(r"^demo-\d+ is gone$", demo.output, re.MULTILINE)
    assert list((demo.folder / "home" / "endpoints").iterdir()) == []
    assert "<html" in (demo.folder / "report.html").read_text(encoding="utf-8")


def _with_dependencies(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def small_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with NumPy, Pillow, pydantic, LiteRT, what these need, and the package itself."""
    place = tmp_path_factory.mktemp("small") / "venv"
    if WHEEL is not None:
        python = new_environment(place, *SMALL)
        run(python, "-m", "pip", "install", "-q", "--no-deps", WHEEL, cwd=place)
        return python
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in _with_dependencies(SMALL):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    (packages / "medimg").symlink_to(ROOT / "src" / "medimg")
    return place / "bin" / "python"


CHECK = """
import importlib.util, json, sys
from medimg import ModelFolder

model = ModelFolder.load(sys.argv[1])
differences = [
    abs(model.predict(golden.content).probabilities[name] - value)
    for golden in model.golden
    for name, value in zip(model.record.classes, golden.probabilities)
]
present = [name for name in sys.argv[2:] if importlib.util.find_spec(name) is not None]
print(json.dumps([model.predictor.runtime.name, differences, present]))
"""


def test_the_predictor_runs_with_numpy_pillow_pydantic_and_litert_alone(
    small_python: Path, demo: Demo, tmp_path: Path
) -> None:
    """Where serving happens the model gives what Keras gave in training, and neither Keras nor TensorFlow is there."""
    runtime, differences, present = json.loads(run(small_python, "-c", CHECK, demo.model, *ABSENT, cwd=tmp_path))
    assert present == []
    assert runtime == "litert"
    assert len(differences) >= 6
    assert max(differences) < 1e-4


@pytest.mark.skipif(WHEEL is None, reason="MEDIMG_WHEEL names no wheel; CI sets it after the build")
def test_the_wheel_holds_the_library_and_nothing_else() -> None:
    """No tests, caches or local state are published, and the licence is."""
    assert WHEEL is not None
    with zipfile.ZipFile(WHEEL) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"medimg"}
    assert not [name for name in names if "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)
