"""The running medimg as a wheel: what a job in a cloud installs, so that it does what was tried here."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import medimg
from medimg.backends.identity import code_digest
from medimg.home import atomic_write, home

__all__ = ["wheel"]

OLDEST_PYTHON = "3.11"
# What an editor or a user left beside the code stays here.
_TRAVELS = (".css", ".html", ".js", ".json", ".py", ".svg", ".typed")


def wheel() -> Path:
    """Returns medimg's own code as a wheel, however it was installed here, editable too.

    It is made without a network or a build tool, the same code gives the same bytes, and it names no requirements: a
    job's image brings a TensorFlow built for its GPU, which pip would replace by another one.

    Raises:
        StorageError: The home folder is full or cannot be written.
    """
    version = f"{medimg.__version__}+c{code_digest()}"  # a letter first: a number would lose its leading zeros
    content = _archive(_members(version))
    path = home() / "code" / code_digest() / f"medimg-{version}-py3-none-any.whl"
    # Compared, not trusted: the digest covers the code, and a style sheet beside it may have changed.
    if not path.is_file() or path.read_bytes() != content:
        atomic_write(path, content)
    return path


def _members(version: str) -> dict[str, bytes]:
    """Returns the wheel's files by name."""
    package = Path(medimg.__file__).parent
    members = {
        f"medimg/{file.relative_to(package).as_posix()}": file.read_bytes()
        for file in sorted(package.rglob("*"))
        if file.suffix in _TRAVELS and file.is_file() and not file.name.startswith(".")
    }
    about = f"medimg-{version}.dist-info"
    members[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.4\nName: medimg\nVersion: {version}\nRequires-Python: >={OLDEST_PYTHON}\n"
    ).encode()
    members[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: medimg\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return members | {f"{about}/RECORD": _record(members, f"{about}/RECORD")}


def _record(members: Mapping[str, bytes], itself: str) -> bytes:
    lines = []
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{itself},,\n"]).encode()


def _archive(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)  # its time is 1980, so that equal code gives equal bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # Unix, or the mode would not count
            archive.writestr(entry, content)
    return buffer.getvalue()
