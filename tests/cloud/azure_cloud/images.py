"""Container images: what an environment's conda file names, with what that needs, and nothing else.

Nothing is downloaded: the packages are those of this interpreter and of two folders that `make test` installs, since
what they hold cannot be installed beside the rest. What is in none of them cannot be built here.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import threading
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import yaml
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

__all__ = ["ImageBuildError", "Images", "packages_of"]


# Which folder is looked into first, by a package that is named.
_FIRST = {"azureml-inference-server-http": "inference-server", "azureml-mlflow": "mlflow"}


class ImageBuildError(Exception):
    """What pip says of a list of packages that cannot be installed."""


class Images:
    """The images that were built.

    Args:
        root: Where their packages are laid out, as links.
        folders: With the two folders.
    """

    def __init__(self, root: Path, folders: Path) -> None:
        self._root = root
        self._folders = folders
        self._lock = threading.Lock()
        self._installed: dict[Path, dict[str, Distribution]] = {}

    def build(self, packages: Sequence[str]) -> str:
        """Returns the name of the image that has these packages, as pip writes them, built once.

        Raises:
            ImageBuildError: There is no such package here, or not in that version.
        """
        name = hashlib.sha256(json.dumps(sorted(packages)).encode()).hexdigest()[:16]
        with self._lock:
            if not self.folder(name).is_dir():
                chosen = self._choose(packages)
                making = self._root / f"{name}.making"
                making.mkdir(parents=True, exist_ok=True)
                for source, each in chosen:
                    _link(source, each, making)
                making.rename(self.folder(name))
        return name

    def folder(self, name: str) -> Path:
        """Returns the folder of an image's packages."""
        return self._root / name

    def _choose(self, packages: Sequence[str]) -> list[tuple[Path, Distribution]]:
        """Returns what is to be installed, and where it is found."""
        wanted = [_requirement(package) for package in packages]
        first = [_FIRST[name] for name in (canonicalize_name(each.name) for each in wanted) if name in _FIRST]
        sources = [self._folders / name for name in first]
        sources += [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
        chosen: dict[str, tuple[Path, Distribution]] = {}
        extras: set[tuple[str, str]] = set()
        waiting = [(each, "") for each in wanted]
        while waiting:
            requirement, needed_by = waiting.pop(0)
            name = canonicalize_name(requirement.name)
            # A GPU's libraries are in no folder here, and there is no GPU to use them.
            asked = {extra for extra in requirement.extras if extra != "and-cuda"} | {""}
            news = {(name, extra) for extra in asked} - extras
            if name in chosen and not news:
                self._agree(requirement, needed_by, chosen[name][1])
                continue
            extras |= news
            chosen[name] = found = self._find(requirement, needed_by, sources)
            for line in found[1].requires or ():
                inner = Requirement(line)
                if any(_holds(inner, extra) for _, extra in news):
                    waiting.append((inner, f"{found[1].name} {found[1].version}"))
        return list(chosen.values())

    def _find(self, requirement: Requirement, needed_by: str, sources: Sequence[Path]) -> tuple[Path, Distribution]:
        there = []
        for source in sources:
            found = self._in(source).get(canonicalize_name(requirement.name))
            if found is not None and requirement.specifier.contains(found.version, prereleases=True):
                return source, found
            there += [found.version] if found is not None else []
        raise ImageBuildError(
            f"ERROR: Could not find a version that satisfies the requirement {requirement}"
            f"{f' (from {needed_by})' if needed_by else ''} (from versions: {', '.join(there) or 'none'})\n"
            f"ERROR: No matching distribution found for {requirement}"
        )

    @staticmethod
    def _agree(requirement: Requirement, needed_by: str, chosen: Distribution) -> None:
        if not requirement.specifier.contains(chosen.version, prereleases=True):
            raise ImageBuildError(
                f"ERROR: Cannot install {chosen.name}=={chosen.version} and {needed_by or requirement} because these "
                f"package versions have conflicting dependencies: {needed_by or 'the user'} requests {requirement}\n"
                "ERROR: ResolutionImpossible"
            )

    def _in(self, source: Path) -> dict[str, Distribution]:
        if source not in self._installed:
            found = distributions(path=[str(source)])
            self._installed[source] = {canonicalize_name(each.name): each for each in found}
        return self._installed[source]


def packages_of(conda_file: str | None) -> list[str]:
    """Returns what pip is to install, of the text of a conda file."""
    conda: dict[str, Any] = yaml.safe_load(conda_file or "") or {}
    return [package for each in conda.get("dependencies", ()) if isinstance(each, dict) for package in each["pip"]]


def _requirement(package: str) -> Requirement:
    try:
        return Requirement(package)
    except InvalidRequirement as error:
        raise ImageBuildError(f"ERROR: Invalid requirement: {package!r}: {error}") from None


def _holds(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    plain = requirement.marker.evaluate({**default_environment(), "extra": ""})
    return requirement.marker.evaluate({**default_environment(), "extra": extra}) and not (extra and plain)


def _link(source: Path, installed: Distribution, target: Path) -> None:
    """Links a package's files, whole folders where no other package can have a part of them."""
    done: set[tuple[str, ...]] = set()
    for file in installed.files or ():
        for depth in range(1, len(file.parts) + 1):
            begin = file.parts[:depth]
            if begin in done or begin[0] in ("..", "bin", "__pycache__"):
                break
            path = source.joinpath(*begin)
            if depth == len(file.parts) or path.suffix == ".dist-info" or (path / "__init__.py").exists():
                done.add(begin)
                if path.exists() and path.suffix != ".pth":
                    target.joinpath(*begin).parent.mkdir(parents=True, exist_ok=True)
                    target.joinpath(*begin).symlink_to(path)
                break
