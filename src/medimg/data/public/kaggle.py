"""Data sets on Kaggle, through its own package and the user's own key, which is printed nowhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from medimg.errors import DatasetError, DownloadError, MedimgError, MissingExtraError
from medimg.home import storage_errors
from medimg.progress import Report, heartbeat

__all__ = ["fetch"]

_SECRETS = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN")
_REFUSED = {401: "refused your key", 403: "does not let you have it"}
_NO_KEY = (
    "Kaggle gives its data to those who are signed in, and there is no key on this machine. Make one at "
    "https://www.kaggle.com/settings/api, then set KAGGLE_USERNAME and KAGGLE_KEY, or keep it in ~/.kaggle/kaggle.json"
)


def fetch(reference: str, path: Path, report: Report) -> None:
    """Downloads a data set as one zip archive; a call after a cut goes on where the last one stopped.

    Args:
        reference: Its owner and name, such as "owner/data-set".
        path: Where the archive goes; its name is that of the data set with `.zip`, as Kaggle's package has it.
        report: Told that work goes on.

    Raises:
        MissingExtraError: Kaggle's package is not installed.
        DatasetError: There is no key, or Kaggle refuses it or the data.
        DownloadError: Kaggle cannot be reached, or answered something else.
        StorageError: The disk is full.
    """
    if find_spec("kaggle") is None:
        raise MissingExtraError("A data set on Kaggle", "kaggle")
    page = f"https://www.kaggle.com/datasets/{reference}"
    failed: MedimgError | None = None
    megabytes = f"{path.name} from Kaggle"
    with storage_errors(path, elsewhere="give another DEST"), heartbeat("downloading", report, message=megabytes):
        try:
            _download(reference, path.parent)
        except MedimgError as error:
            failed = error
        except OSError as error:
            if error.errno is not None and not hasattr(error, "response"):
                raise
            failed = _translated(error, page)
        except Exception as error:
            failed = _translated(error, page)
    # Raised here, so that what Kaggle's package raised, with its request and the key in it, is not its context.
    if failed is not None:
        raise failed
    if not path.is_file():
        raise DownloadError(f"Kaggle sent no {path.name} for {page}. Download it there by hand")


def _download(reference: str, folder: Path) -> None:
    # Its import signs in, ends the process where it cannot, and prints; so does its download.
    with _quietly():
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        try:
            api.authenticate()
        except SystemExit:
            signed_in = False
        else:
            signed_in = True
        if signed_in:
            api.dataset_download_files(reference, path=str(folder), quiet=True)
    if not signed_in:
        raise DatasetError(_NO_KEY)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _translated(error: Exception, page: str) -> MedimgError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _REFUSED:
        return DatasetError(
            f"Kaggle {_REFUSED[status]} ({status}). Open {page} while you are signed in and accept its terms; make a "
            "new key at https://www.kaggle.com/settings/api if yours is old"
        )
    if status == 404:
        return DatasetError(f"Kaggle has no {page} (404)")
    if status is not None:
        return DownloadError(f"{page} could not be fetched: Kaggle answered {status}. Try again later")
    return DownloadError(f"{page} could not be fetched: {_without_secrets(f'{type(error).__name__}: {error}')}")


def _without_secrets(text: str) -> str:
    for secret in _secrets():
        text = text.replace(secret, "…")
    text = re.sub(r"(Basic|Bearer) \S+", r"\1 …", text)  # the same, as a request has it
    return text.partition("?")[0]  # the rest of an address may be a signature


def _secrets() -> Iterator[str]:
    yield from filter(None, map(os.environ.get, _SECRETS))
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    for name in ("access_token", "access_token.txt"):
        with contextlib.suppress(OSError):
            yield from filter(None, [(folder / name).read_text(encoding="utf-8").strip()])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        yield from filter(None, [json.loads((folder / "kaggle.json").read_text(encoding="utf-8")).get("key")])
