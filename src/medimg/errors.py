"""Every error that medimg raises on purpose.

MedimgError
├── ConfigError                 a setting that does not exist or cannot be
├── DatasetError                a folder, table or split that cannot be used
│   └── AuditError              a check of the data that stops training unless it is allowed by name
├── ImageRejected               one image that cannot be read; carries a code and the image's name
├── WeightsError                pretrained weights that are missing or wrong
├── ModelFolderError            a model folder that is incomplete or was changed
├── RuntimeMismatchError        an exported model that does not agree with the trained one
├── StorageError                the disk is full or cannot be written
├── DownloadError               a file that could not be fetched, or is not what was asked for
├── ArchiveError                an archive that is damaged, or that nobody should unpack
├── BackendError                a backend could not do what was asked
│   ├── NotFoundError           no job, model or endpoint of that name
│   ├── AlreadyExistsError      the name is taken
│   ├── JobFailedError          a job ended without a model; carries its last log lines
│   ├── EndpointError           an endpoint refused, failed or did not become ready
│   ├── AccessError             no credentials, or they do not allow it; names the missing action
│   ├── QuotaError              the account may not use more of something; names the quota
│   └── UnreachableError        the backend did not answer: says nothing about the job
└── MissingExtraError           an optional package is not installed (also an ImportError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "ArchiveError",
    "AuditError",
    "BackendError",
    "ConfigError",
    "DatasetError",
    "DownloadError",
    "EndpointError",
    "ImageRejected",
    "JobFailedError",
    "MedimgError",
    "MissingExtraError",
    "ModelFolderError",
    "NotFoundError",
    "QuotaError",
    "RuntimeMismatchError",
    "StorageError",
    "UnreachableError",
    "WeightsError",
    "did_you_mean",
]


class MedimgError(Exception):
    """The root: `except medimg.errors.MedimgError` catches all that medimg raises on purpose."""


class ConfigError(MedimgError):
    """A setting that does not exist, or a value that cannot be."""


class DatasetError(MedimgError):
    """A folder, table or split that cannot be used as it is."""


class AuditError(DatasetError):
    """A check of the data failed. `allow=[check]` overrides it by name.

    Attributes:
        check: The name to pass in `allow`.
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{message}\nIf you mean it: backend.train(…, allow=[{check!r}])")
        self.check = check


class ImageRejected(MedimgError):  # noqa: N818 - the word of the contract
    """One image that cannot be read.

    Attributes:
        code: A short, stable word: see `medimg.data.decode.REJECTIONS`.
        name: The name under which the caller knows the image.
        message: What is wrong and what to do, without the name and the code.
    """

    def __init__(self, code: str, name: str, message: str) -> None:
        super().__init__(f"{name}: {message} [{code}]")
        self.code = code
        self.name = name
        self.message = message


class WeightsError(MedimgError):
    """Pretrained weights that are missing, or are not what their hash says."""


class ModelFolderError(MedimgError):
    """A model folder that is incomplete, or was changed after it was written."""


class RuntimeMismatchError(MedimgError):
    """A runtime gives other probabilities than the trained model."""


class StorageError(MedimgError, OSError):
    """The disk is full, or a folder cannot be written."""


class DownloadError(MedimgError, OSError):
    """A file that could not be fetched, or that is not what was asked for."""


class ArchiveError(MedimgError):
    """An archive that is damaged, or that holds what would be dangerous to unpack."""


class BackendError(MedimgError):
    """A backend could not do what was asked."""


class NotFoundError(BackendError, LookupError):
    """No job, model version or endpoint of that name."""

    # LookupError's own str() of one argument is fine; KeyError's would quote it.


class AlreadyExistsError(BackendError):
    """The name is taken."""


class JobFailedError(BackendError):
    """A job ended without a result; the message ends with its last log lines."""


class EndpointError(BackendError):
    """An endpoint refused the request, failed, or did not become ready.

    Attributes:
        status: The HTTP status that it answered with; 0 where it gave none.
        retry_after: Seconds after which it asks to be tried again; None where it does not say.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class AccessError(BackendError, PermissionError):
    """No credentials, expired ones, or a permission that is missing; the message names it."""


class QuotaError(BackendError):
    """The account may not use more of something; the message names the quota to ask for."""


class UnreachableError(BackendError, ConnectionError):
    """The backend did not answer. This says nothing about the job or endpoint itself."""


class MissingExtraError(MedimgError, ImportError):
    """An optional package is not installed; the message names the pip line."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed. Run: pip install 'medimg[{extra}]'")
        self.extra = extra


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the nearest known name, else a list of the known ones."""
    names = sorted(known)
    by_case = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(word.casefold(), by_case, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {by_case[near[0]]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
