"""Packages for another machine's Python, as a folder: what an endpoint imports beside medimg itself.

The versions are those installed here, so that an endpoint computes as the trainer did. pip fetches them as built files
for the other machine; where this machine is of the same kind, what is installed here is taken and nothing is fetched.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medimg.errors import BackendError
from medimg.home import atomic_folder, home

__all__ = ["bundle"]

MACHINE = "x86_64"
NEWEST_GLIBC = 28  # 2.28: older than that of Amazon Linux 2023 (2.34) and of Ubuntu 20.04 (2.31), on which AWS serves
OLDEST_GLIBC = 17
_PIP_SECONDS = 900

# Declared by LiteRT, and imported by its converters and compilers alone.
_UNUSED_PACKAGES = {"backports-strenum", "flatbuffers", "ml-dtypes", "protobuf", "tqdm"}
_UNUSED_FILES = (
    # Not at work where a model is run on a CPU: accelerators, compilers, converters.
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "ai_edge_litert/_pywrap_litert_converter.so",
    "ai_edge_litert/_pywrap_tfl_calibration.so",
    "ai_edge_litert/aot/*",
    "ai_edge_litert/tools/*",
    "ai_edge_litert/vendors/*",
    # AVIF is refused by our decoder, and there is no window.
    "PIL/_avif.*",
    "PIL/_imagingtk.*",
    "pillow.libs/libavif*",
    "numpy/f2py/*",
    "numpy/distutils/*",
    # Of every package.
    "*/tests/*",
    "*/__pycache__/*",
    "*.a",
    "*.c",
    "*.h",
    "*.pxd",
    "*.pyc",
    "*.pyi",
    "*.pyx",
    "bin/*",
    "*.dist-info/direct_url.json",
    "*.dist-info/INSTALLER",
    "*.dist-info/RECORD",
    "*.dist-info/REQUESTED",
    "*.dist-info/sboms/*",
)


def bundle(requirements: Iterable[str], *, python: str = "3.12") -> Path:
    """Returns a folder with packages and all that they need, for a Python on Linux (x86-64, glibc 2.28 or newer).

    What serving never imports is left out. The folder is kept under the home folder and must not be changed; its name
    follows from the versions in it.

    Args:
        requirements: Names of packages that are installed here.
        python: Version of the Python that is to import them.

    Raises:
        BackendError: The packages are not there for that Python, or the package registry cannot be reached.
        StorageError: The disk is full.
    """
    versions = _versions(tuple(requirements), python)
    content = [versions, python, MACHINE, NEWEST_GLIBC, _UNUSED_FILES]
    folder = home() / "bundles" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    if not folder.exists():
        with atomic_folder(folder) as draft:
            # What is installed here can be taken if it is what pip would fetch.
            if not (_is_this_machine(python) and all(_copy(name, draft) for name in versions)):
                _fetch(versions, python, draft)
            _strip(draft)
    return folder


@cache
def _versions(requirements: tuple[str, ...], python: str) -> dict[str, str]:
    """Returns the packages and all that they need on the other machine, with the versions that are installed here."""
    there = {
        "extra": "", "implementation_name": "cpython", "os_name": "posix", "platform_machine": MACHINE,
        "platform_python_implementation": "CPython", "platform_system": "Linux", "python_full_version": f"{python}.0",
        "python_version": python, "sys_platform": "linux",
    }  # fmt: skip
    found: dict[str, str] = {}
    waiting = [canonicalize_name(name) for name in requirements]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise BackendError(
                f"an endpoint needs {name}, and its version is taken from the one installed here: there is none. "
                f"Run: pip install {name}"
            ) from None
        found[name] = distribution.version
        for line in distribution.requires or ():
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            if needed not in _UNUSED_PACKAGES and (requirement.marker is None or requirement.marker.evaluate(there)):
                waiting.append(needed)
    return dict(sorted(found.items()))


def _is_this_machine(python: str) -> bool:
    """Tells whether what is installed here runs there, as far as the machine goes."""
    here = (sys.implementation.name, sys.platform, platform.machine(), platform.libc_ver()[0])
    return here == ("cpython", "linux", MACHINE, "glibc") and python == ".".join(map(str, sys.version_info[:2]))


def _copy(name: str, target: Path) -> bool:
    """Copies an installed package, if it was installed from a wheel that is for the other machine too."""
    distribution = metadata.distribution(name)
    tags = [line.removeprefix("Tag: ") for line in (distribution.read_text("WHEEL") or "").splitlines()]
    fits = {f"{platform}_{MACHINE}" for platform in _platforms()} | {"any"}
    # A distribution's own build ("linux_x86_64") may need libraries that are not there.
    if not any(tag.rpartition("-")[2] in fits for tag in tags) or not distribution.files:
        return False
    for file in distribution.files:
        source = Path(str(distribution.locate_file(file)))
        if ".." not in file.parts and not file.is_absolute() and not _is_unused(file) and source.is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / file)
    return True


def _platforms() -> list[str]:
    """Returns what a wheel may be built for, the newest first; pip has to be told each."""
    return [f"manylinux_2_{minor}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)] + ["manylinux2014"]


def _fetch(versions: dict[str, str], python: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # half of it may have been copied
    command = [sys.executable, "-m", "pip", "install", "--target", str(target), "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--no-compile", "--disable-pip-version-check"]
    command += ["--quiet", "--retries", "2", "--timeout", "30"]
    command += [part for name in _platforms() for part in ("--platform", f"{name}_{MACHINE}")]
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    try:
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
        failed, said = done.returncode != 0, done.stderr
    except subprocess.TimeoutExpired:
        failed, said = True, f"pip was still at work after {_PIP_SECONDS} seconds"
    if failed:
        lines = "\n".join(f"  {line}" for line in said.strip().splitlines()[-5:])
        raise BackendError(
            f"the packages that an endpoint imports could not be fetched for Python {python} on Linux:\n{lines}\n"
            "Where the package registry cannot be reached, set PIP_INDEX_URL to a mirror, or fill a folder with them "
            f"elsewhere (pip download --no-deps --python-version {python} --platform {_platforms()[0]}_{MACHINE} "
            f"--only-binary=:all: {' '.join(wanted)}) and set PIP_FIND_LINKS to it. "
            f"On a Linux machine with Python {python} nothing is fetched"
        )


def _is_unused(file: PurePosixPath) -> bool:
    return any(fnmatch.fnmatchcase(file.as_posix(), pattern) for pattern in _UNUSED_FILES)


def _strip(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif _is_unused(PurePosixPath(path.relative_to(folder).as_posix())):
            path.unlink()
