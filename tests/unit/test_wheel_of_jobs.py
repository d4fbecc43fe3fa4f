"""The wheel that a job installs is this code, the same bytes each time, and runs where nothing else is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import medimg
from medimg.backends import wheel as wheels
from medimg.backends.identity import code_digest
from medimg.backends.wheel import wheel

PACKAGE = Path(medimg.__file__).parent


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else() -> None:
    """Code, types and the files beside the code; no caches, no tests."""
    with zipfile.ZipFile(wheel()) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"medimg/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".css", ".html", ".js", ".svg") or path.name == "py.typed"
    }
    assert files == expected


def test_what_was_left_beside_the_code_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor's copy, an archive or a key in the package's folder does not go to a cloud."""
    shutil.copytree(PACKAGE, tmp_path / "medimg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "home.py~",
        "home.py.orig",
        "credentials",
        "key.pem",
        "data/images.tar.gz",
        "notes.txt",
        ".secret.json",
    ):
        (tmp_path / "medimg" / name).write_text("canary")
    (tmp_path / "medimg" / "data" / "table.json").write_text("{}")
    expected = {*wheels._members("1"), "medimg/data/table.json"}
    monkeypatch.setattr(medimg, "__file__", str(tmp_path / "medimg" / "__init__.py"))
    assert set(wheels._members("1")) == expected


def test_the_metadata_names_the_code_and_no_requirement() -> None:
    """A job keeps its image's TensorFlow: pip has nothing to replace it for."""
    path = wheel()
    with zipfile.ZipFile(path) as archive:
        metadata = message_from_bytes(archive.read(f"medimg-{path.name.split('-')[1]}.dist-info/METADATA"))
    assert metadata["Version"] == f"{medimg.__version__}+c{code_digest()}"
    assert metadata.get_all("Requires-Dist") is None
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"].startswith(metadata["Requires-Python"] + ",")


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under another home; the second call under one home writes nothing."""
    first = wheel()
    written = first.stat().st_mtime_ns
    assert wheel() == first
    assert first.stat().st_mtime_ns == written
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "other"))
    second = wheel()
    assert second != first
    assert second.read_bytes() == first.read_bytes()


def test_a_changed_file_beside_the_code_makes_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest in the name is of the code alone; what the name hides is compared."""
    copy = tmp_path / "medimg"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(wheels.medimg, "__file__", str(copy / "__init__.py"))
    before = wheel().read_bytes()
    (copy / "evaluation" / "page.css").write_text("/* another */", encoding="utf-8")
    with zipfile.ZipFile(wheel()) as archive:
        assert archive.read("medimg/evaluation/page.css") == b"/* another */"
    assert wheel().read_bytes() != before


def test_pip_installs_the_wheel_and_the_job_module_starts_from_it(tmp_path: Path) -> None:
    """In an environment that sees the checkout's packages and not the checkout."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    # Whatever this process can import, except the editable install: path lines inside path lines are not followed.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    python = place / "bin" / "python"
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", packages, wheel()]
    subprocess.run([python, *install], check=True, cwd=tmp_path, timeout=120)
    code = "import medimg, importlib.metadata as m; print(medimg.__file__); print(m.version('medimg'))"
    file, version = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.split()
    assert Path(file).is_relative_to(packages)
    assert re.fullmatch(r"\d+\.\d+\.\d+\+c[0-9a-f]{16}", version)
    shown = subprocess.run(
        [python, "-m", "medimg.train", "--help"], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    assert "--checkpoints" in shown
    digest = "from medimg.backends.identity import code_digest; print(code_digest())"
    there = subprocess.run([python, "-c", digest], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert there.stdout.strip() == code_digest(), "a job names the code by the same digest"
