"""Container images: which Python packages each has. None of them has the checkout's medimg."""

from __future__ import annotations

import re
import sysconfig
import threading
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from machines.containers import Place

__all__ = ["ML", "Images"]

ML = Place("/opt/ml", "algo-1")  # what a container of SageMaker sees of itself

# What AWS's TensorFlow-Serving image brings, beside TensorFlow Serving itself.
_INFERENCE = (
    "boto3", "botocore", "certifi", "charset-normalizer", "falcon", "gevent", "greenlet", "grpcio", "gunicorn", "idna",
    "jmespath", "packaging", "pip", "python-dateutil", "requests", "s3transfer", "setuptools", "six",
    "typing-extensions", "urllib3", "zope.event", "zope.interface",
)  # fmt: skip
# What AWS's training image does not bring: TensorFlow would import it.
_ABSENT = ("jax", "jaxlib")
# What Lambda's Python runtime brings.
_LAMBDA = (
    "awslambdaric", "boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "simplejson", "six",
    "snapshot-restore-py", "urllib3",
)  # fmt: skip


class Images:
    """The images there are.

    Args:
        root: Where their packages are laid out, as links to this interpreter's own.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()

    def pull(self, uri: str, region: str) -> str | None:
        """Returns the name of the image at an address, "training" or "serving"; None: there is no such image."""
        registry = re.match(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com", uri)
        if registry is not None and registry[1] != region:
            return None  # SageMaker pulls from its own region only
        if "tensorflow-training" in uri:
            return "training"
        return "serving" if "tensorflow-inference" in uri else None

    def packages(self, image: str) -> Path:
        """Returns the folder of an image's packages: "training", "serving" or "lambda"."""
        folder = self._root / image
        with self._lock:
            if not folder.is_dir():
                making = folder.with_suffix(".making")
                making.mkdir(parents=True)
                only = {"serving": _names(_INFERENCE), "lambda": _names(_LAMBDA)}.get(image)
                for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
                    _link(Path(source), making, only)
                making.rename(folder)
        return folder


def _names(packages: Collection[str]) -> set[str]:
    """Returns the first parts of the paths that packages were installed at."""
    names: set[str] = set()
    for package in packages:
        try:
            names |= {file.parts[0] for file in distribution(package).files or ()}
        except PackageNotFoundError:
            continue  # what needs it will say so
    return names - {"..", "__pycache__", "bin"}


def _link(source: Path, target: Path, only: Collection[str] | None) -> None:
    for entry in source.iterdir():
        # A .pth file would bring the editable install back.
        hidden = entry.suffix == ".pth" or entry.name.startswith(("medimg", "__editable__"))
        hidden |= entry.name in ("bin", *_ABSENT)
        if not hidden and (only is None or entry.name in only) and entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)
