"""A backend of another package is found by its entry point and keeps the contract."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import medimg
from medimg.errors import ConfigError
from medimg.testing import BackendConformance, Flags


@pytest.mark.slow
class TestFolder(BackendConformance):
    """Real training jobs and servers, by another adapter; nothing is skipped."""

    factory = "medimg:backend"
    # All is under the root: a process with an empty MEDIMG_HOME must find it.
    flags = Flags(state_in_home=False)

    @classmethod
    def options(cls, folder: Path) -> Mapping[str, Any]:
        """A root for each workspace."""
        return {"name": "folder", "root": str(folder)}

    @pytest.fixture(scope="class")
    @classmethod
    def surroundings(cls, installed_plugin: Path) -> Iterator[Mapping[str, str]]:
        """The package must be installed, and its processes must find it."""
        assert str(installed_plugin) in os.environ["PYTHONPATH"]
        yield {}


def test_an_installed_backend_is_found_by_its_name(installed_plugin: Path, tmp_path: Path) -> None:
    """The entry point is all that medimg needs to know of it."""
    backend = medimg.backend("folder", root=tmp_path)
    assert type(backend).__module__ == "medimg_folder.backend"
    assert Path(__import__("medimg_folder").__file__).is_relative_to(installed_plugin)
    (info,) = [info for info in medimg.available_backends() if info.name == "folder"]
    assert (info.installed, info.source) == (True, "medimg-folder")


def test_a_misspelt_backend_is_answered_with_the_nearest_name(installed_plugin: Path) -> None:
    """Names of other packages are suggested like medimg's own."""
    with pytest.raises(ConfigError, match="Did you mean 'folder'"):
        medimg.backend("foldr")


def test_a_misspelt_option_is_answered_with_the_nearest_name(installed_plugin: Path, tmp_path: Path) -> None:
    """The options are those of the constructor."""
    with pytest.raises(ConfigError, match=r"no option 'rot'.*Did you mean 'root'"):
        medimg.backend("folder", rot=tmp_path)


def test_two_packages_for_one_name_are_an_error(
    installed_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither may silently take the other's place; the message names both."""
    facts = tmp_path / "other_folder-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-folder\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[medimg.backends]\nfolder = other_folder:Backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="folder") as caught:
        medimg.backend("folder", root=tmp_path)
    assert "medimg-folder" in str(caught.value) and "other-folder" in str(caught.value)
    assert medimg.backend("local").name == "local", "the others have nothing to do with it"
    (info,) = [info for info in medimg.available_backends() if info.name == "folder"]
    assert not info.installed and info.hint.startswith("pip uninstall")
    assert "medimg-folder" in info.source and "other-folder" in info.source


def test_a_package_cannot_take_the_name_of_a_backend_of_medimg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`local` is medimg's."""
    facts = tmp_path / "imposter-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: imposter\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[medimg.backends]\nlocal = imposter:Backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="imposter"):
        medimg.backend("local")
