"""A bundle holds what serving imports in the versions of this machine, and runs a model where nothing is installed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from medimg.artifact import ModelFolder
from medimg.backends import bundle as bundles
from medimg.backends.bundle import bundle
from medimg.backends.wheel import wheel
from medimg.errors import BackendError, StorageError

SERVING = ("numpy", "pillow", "pydantic")
LITERT = (*SERVING, "ai-edge-litert")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="elsewhere the packages would be fetched"
)


@pytest.fixture(autouse=True)
def _no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched in a test."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def size(folder: Path) -> int:
    """Returns the bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


CHECK = """
import json, sys
sys.path[:0] = sys.argv[2:]
from medimg.artifact import ModelFolder
model = ModelFolder.load(sys.argv[1])
found = [model.predict(golden.content).probabilities for golden in model.golden]
loaded = {module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}
print(json.dumps([model.predictor.runtime.name, found, sorted(loaded)]))
"""


@pytest.mark.slow
def test_a_model_runs_on_the_bundle_and_the_wheel_alone(trained: ModelFolder, tmp_path: Path) -> None:
    """In a Python without site-packages: probabilities equal those of training, and not a word on standard error."""
    folder = bundle(LITERT, python=HERE)
    with zipfile.ZipFile(wheel()) as archive:
        archive.extractall(tmp_path / "lib")
    command = [sys.executable, "-I", "-S", "-c", CHECK, trained.path, folder, tmp_path / "lib"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runtime, found, loaded = json.loads(done.stdout)
    assert runtime == "litert"
    for golden, probabilities in zip(trained.golden, found, strict=True):
        assert list(probabilities.values()) == pytest.approx(list(golden.probabilities), abs=1e-4)
    elsewhere = [name for name in loaded if "site-packages" in name]
    assert elsewhere == []
    assert [line for line in done.stderr.splitlines() if "XNNPACK" not in line] == []


def test_the_versions_are_those_of_this_machine() -> None:
    """Of the packages and of what they need; licences come along."""
    folder = bundle(LITERT, python=HERE)
    found = {
        d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions(path=[str(folder)])
    }
    assert found == {
        name: metadata.version(name)
        for name in (*LITERT, "annotated-types", "pydantic-core", "typing-extensions", "typing-inspection")
    }
    assert [path.name for path in folder.glob("numpy-*.dist-info/licenses/*")]


def test_what_serving_never_needs_is_left_out() -> None:
    """Tests, stubs, headers, caches, and LiteRT's accelerators; Lambda takes 250 MB with the model."""
    folder = bundle(LITERT, python=HERE)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyi", ".pyc", ".a", ".h"))]
    assert not [name for name in names if "/tests" in name or "WebGpu" in name or "/vendors" in name]
    assert not [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert size(folder) < 110 * 2**20
    assert size(bundle(SERVING, python=HERE)) < 80 * 2**20


def test_a_bundle_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name follows from the versions, so that another version is another bundle."""
    first = bundle(SERVING, python=HERE)
    made = first.stat().st_mtime_ns
    assert bundle(SERVING, python=HERE) == first
    assert first.stat().st_mtime_ns == made
    assert bundle(LITERT, python=HERE) != first
    monkeypatch.setattr(bundles, "_versions", lambda *_: {"numpy": metadata.version("numpy")})
    assert bundle(SERVING, python=HERE) != first


def test_a_bundle_that_could_not_be_fetched_says_why_and_the_way_around(own_home: Path) -> None:
    """What pip said is in the message; no half of a bundle stays."""
    other = "3.12" if HERE != "3.12" else "3.13"
    with pytest.raises(BackendError, match="could not be fetched") as caught:
        bundle(("pydantic",), python=other)
    message = str(caught.value)
    assert f"pydantic=={metadata.version('pydantic')}" in message
    assert "No matching distribution found" in message
    assert "PIP_INDEX_URL" in message
    assert f"pip download --no-deps --python-version {other}" in message
    assert "PIP_FIND_LINKS" in message
    assert list((own_home / "bundles").iterdir()) == []


def test_wheels_in_a_folder_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the message proposes works, for another Python than this one."""
    other = "3.12" if HERE != "3.12" else "3.13"
    place = tmp_path / "wheels"
    place.mkdir()
    tag = f"cp{other.replace('.', '')}-cp{other.replace('.', '')}-manylinux_2_28_x86_64"
    version = metadata.version("annotated-types")
    about = f"annotated_types-{version}.dist-info"
    with zipfile.ZipFile(place / f"annotated_types-{version}-{tag}.whl", "w") as archive:
        archive.writestr("annotated_types/__init__.py", "built_for = " + repr(tag))
        archive.writestr("annotated_types/tests/test_x.py", "")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: annotated-types\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    folder = bundle(("annotated-types",), python=other)
    assert tag in (folder / "annotated_types" / "__init__.py").read_text()
    assert not (folder / "annotated_types" / "tests").exists()


def test_a_package_that_is_not_installed_is_named() -> None:
    """There is no version to take."""
    with pytest.raises(BackendError, match="Run: pip install no-such-package"):
        bundle(("no-such-package",), python=HERE)


def test_a_bundle_is_zipped_once(tmp_path: Path) -> None:
    """The second function with the same packages takes the zip of the first; what is native may be executed."""
    functions = pytest.importorskip("medimg.backends.sagemaker.functions", exc_type=ImportError)
    library = tmp_path / "bundles" / "0123456789abcdef"
    (library / "package").mkdir(parents=True)
    (library / "package" / "core.so").write_bytes(b"native")
    (library / "package" / "__init__.py").write_text("")
    zipped = functions._zipped(library, tmp_path)
    with zipfile.ZipFile(zipped) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
        assert archive.read("package/core.so") == b"native"
    assert modes == {"package/__init__.py": 0o644, "package/core.so": 0o755}
    written = zipped.stat().st_mtime_ns
    assert functions._zipped(library, tmp_path) == zipped
    assert zipped.stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles"], "nothing is left beside it"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no half of a bundle stays."""

    def full(source: Path, target: Path) -> None:
        with Path("/dev/full").open("wb") as file:
            file.write(b"x")

    monkeypatch.setattr(bundles.shutil, "copy", full)
    with pytest.raises(StorageError, match="the disk is full"):
        bundle(SERVING, python=HERE)
    assert list((own_home / "bundles").iterdir()) == []
