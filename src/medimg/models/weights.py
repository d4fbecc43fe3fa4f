"""From the setting `weights` to a file on this machine, before a job is sent; Keras is not needed."""

from __future__ import annotations

import os
from pathlib import Path

from medimg.config import TrainConfig
from medimg.download import Progress, download, md5_of, sha256_of
from medimg.errors import DownloadError, WeightsError
from medimg.models.applications import WeightsFile
from medimg.models.registry import check, describe, imagenet

__all__ = ["KERAS_FILES", "cache", "resolve"]

KERAS_FILES = "https://storage.googleapis.com"
"""Where Keras publishes its ImageNet weights."""

_SHA256_DIGITS = 64

_SUFFIXES = (".h5", ".keras")


def cache() -> Path:
    """Returns the folder in which Keras keeps downloaded weights: `$KERAS_HOME/models`, else `~/.keras/models`."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".keras") / "models"


def resolve(
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    base_url: str = KERAS_FILES,
    timeout_s: float = 30.0,
) -> Path | None:
    """Returns the weights file that a configuration asks for, or None if it trains from scratch.

    "imagenet" is the file that Keras itself would take for this network, option and image size: from Keras' cache,
    else downloaded into it. Whatever the source, the file is checked to hold the configured network.

    Args:
        config: A path in `config.weights` is taken as given, relative to the current folder.
        progress: Called with bytes so far and in all while a download runs.
        base_url: Address of the host that has Keras' files, or of a mirror of it.
        timeout_s: Longest silence of the server.

    Raises:
        ConfigError: The configuration names no such network or weights.
        WeightsError: The file is missing, damaged or of another network.
    """
    check(config)
    if config.weights is None:
        return None
    file = imagenet(config)
    if config.weights != "imagenet" or file is None:
        return _given(Path(config.weights).expanduser().absolute(), config)
    path = cache() / file.name
    damaged = path.with_name(f"{path.name}.damaged")
    if path.exists() and not _intact(path, file, config):
        path.replace(damaged)  # Keras leaves a cut-off file behind when a download is interrupted
    if not path.exists():
        _download(file, path, config, progress, base_url, timeout_s)
        damaged.unlink(missing_ok=True)
    return path


def _intact(path: Path, file: WeightsFile, config: TrainConfig) -> bool:
    if file.hash and file.hash != (sha256_of if _is_sha256(file) else md5_of)(path):
        return False
    try:
        _check_file(path, config)
    except WeightsError:
        return False
    return True


def _is_sha256(file: WeightsFile) -> bool:
    return len(file.hash or "") == _SHA256_DIGITS


def _given(path: Path, config: TrainConfig) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"weights={config.weights!r}: there is no file {path}. Give the path of an existing .h5, .weights.h5 or "
            ".keras file, weights='imagenet', or weights=None to train from scratch"
        )
    if path.suffix not in _SUFFIXES:
        raise WeightsError(f"weights={config.weights!r}: give a file that ends in .h5, .weights.h5 or .keras")
    _check_file(path, config)
    return path


def _download(
    file: WeightsFile, path: Path, config: TrainConfig, progress: Progress | None, base_url: str, timeout_s: float
) -> None:
    url = f"{base_url.rstrip('/')}/{file.address}"
    try:
        download(
            url,
            path,
            md5=None if _is_sha256(file) else file.hash,
            sha256=file.hash if _is_sha256(file) else None,
            verify=lambda part: _check_file(part, config),
            progress=progress,
            elsewhere="set KERAS_HOME to a folder",
            timeout_s=timeout_s,
        )
    except DownloadError as error:
        wanted, _ = describe(config)
        damaged = path.with_name(f"{path.name}.damaged")
        found = f" (the file found was damaged, it is now {damaged})" if damaged.exists() else ""
        raise WeightsError(
            f"the ImageNet weights of {wanted} at {config.image_size} pixels are not on this machine{found} and "
            f"could not be downloaded: {error}\n"
            f"On a machine with internet:  curl -O {url}\n"
            f"then put the file here:      {path}\n"
            f"or set weights= to the path of any weights file of {wanted}; the image size it was trained at may differ"
        ) from error


def _check_file(path: Path, config: TrainConfig) -> None:
    # h5py takes a tenth of a second and NumPy: only those pay who have a file to check.
    from medimg.models.pretrained import check_file

    check_file(path, config)
