"""What SageMaker serves: one `model.tar.gz` with the model folder, our code and the packages that it needs.

In `model/` is the sealed model folder; TensorFlow Serving finds its SavedModel there. `code/inference.py` is what AWS's
service calls for each request. `code/lib/` has medimg and its few packages, built for the image's Python: an endpoint
that starts or grows installs nothing and asks no package registry.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medimg.backends.bundle import bundle
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.images import SERVING_PYTHON, serving_image
from medimg.backends.wheel import wheel
from medimg.home import home, make_folder, storage_errors
from medimg.progress import Report, heartbeat, silent

__all__ = ["DEFAULT_INSTANCE", "Archives"]

DEFAULT_INSTANCE = "ml.m5.large"
_PACKAGES = ("numpy", "pillow", "pydantic")
_INFERENCE = b'"""What the service of the image calls."""\n\nfrom medimg.serving.clouds.sagemaker import handler\n'


class Archives:
    """The servable models of an account, kept by content.

    Args:
        account: Whose.
        image: The image that serves them; None: AWS's TensorFlow Serving image.
        python: Version of that image's Python; None: that of AWS's.
    """

    def __init__(self, account: Account, *, image: str | None, python: str | None) -> None:
        self._account = account
        self._image = image
        self._python = python or SERVING_PYTHON

    def upload(self, folder: Path, digest: str, report: Report = silent) -> str:
        """Uploads a model folder as it is served, unless it is there; returns its address."""
        with heartbeat("bundling", report):
            library, built = bundle(_PACKAGES, python=self._python), wheel()
        code = hashlib.sha256(f"{built.name} {library.name} {_INFERENCE!r}".encode()).hexdigest()[:8]
        key = f"models/{digest[:16]}-{code}/model.tar.gz"
        if not self._account.storage.exists(key):
            scratch = home() / "scratch"
            make_folder(scratch)
            with tempfile.NamedTemporaryFile(dir=scratch, suffix=".tar.gz") as file, storage_errors(scratch):
                with heartbeat("archiving", report):
                    _write(Path(file.name), folder, library, built)
                self._account.writable.upload_file(Path(file.name), key, report)
        return self._account.uri(key)

    def upload_report(self, folder: Path, digest: str) -> str:
        """Uploads a model's figures, and returns their address."""
        record = json.loads((folder / "medimg.json").read_text())
        key = f"models/{digest[:16]}/metrics.json"
        self._account.writable.put(key, json.dumps(record["metrics"], indent=1).encode())
        return self._account.uri(key)

    def download(self, uri: str, target: Path, report: Report) -> None:
        """Downloads the model folder out of an archive."""
        key = uri.removeprefix(self._account.uri(""))
        self._account.storage.download_archive(key, target, report, folder="model")

    def container(self, uri: str, details: Mapping[str, Any], instance: str | None = None) -> dict[str, Any]:
        """Returns the definition of the container that serves an archive."""
        return {
            "Image": self._image or serving_image(self._account.region, instance or DEFAULT_INSTANCE),
            "ModelDataUrl": uri,
            "Environment": {
                "MEDIMG_DIGEST": str(details["digest"]),
                "MEDIMG_VERSION": str(details.get("version", "")),
                "SAGEMAKER_GUNICORN_WORKERS": "2",
                "SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "saved_model",
            },
        }

    def delete_unused(self, used: set[str]) -> None:
        """Deletes the archives whose address is not among those in use."""
        for key in self._account.storage.list("models/"):
            if key.endswith("/model.tar.gz") and self._account.uri(key) not in used:
                self._account.storage.delete_prefix(key.removesuffix("model.tar.gz"))
        digests = {uri.rpartition("/models/")[2].split("-")[0] for uri in used}
        for key in self._account.storage.list("models/"):
            if key.endswith("/metrics.json") and key.split("/")[1] not in digests:
                self._account.storage.delete_prefix(key)


def _write(target: Path, model: Path, library: Path, built: Path) -> None:
    """Writes an archive; the same content gives the same bytes."""
    # Weights hardly compress, and level 1 takes a fifth of the time.
    with (
        target.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        # What does not belong to the sealed model (looks, hidden files) stays here.
        sealed = [*json.loads((model / "digest.json").read_text())["files"], "digest.json"]
        for name in sorted(sealed):
            _add(archive, f"model/{name}", (model / name).read_bytes())
        _add(archive, "code/inference.py", _INFERENCE)
        for path in sorted(library.rglob("*")):
            if path.is_file():
                _add(archive, f"code/lib/{path.relative_to(library).as_posix()}", path.read_bytes())
        with zipfile.ZipFile(built) as ours:
            for name in sorted(ours.namelist()):
                _add(archive, f"code/lib/{name}", ours.read(name))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
