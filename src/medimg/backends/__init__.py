"""Backends by name: `local`, and what other packages add through the entry-point group `medimg.backends`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from medimg.errors import ConfigError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from medimg.backends.base import Backend

__all__ = ["BackendInfo", "available_backends", "backend"]

GROUP = "medimg.backends"


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """One backend that this installation knows of.

    Attributes:
        name: What `medimg.backend` takes.
        installed: Whether all it needs is installed.
        source: The package that brings it.
        hint: The pip line for what is missing, or "".
    """

    name: str
    installed: bool
    source: str
    hint: str = ""


def _known() -> dict[str, list[tuple[str, str]]]:
    """Returns name to (module:class, package); two packages that bring the same name are both listed."""
    known = {
        "local": [("medimg.backends.local:LocalBackend", "medimg")],
        "azureml": [("medimg.backends.azureml.backend:AzureMLBackend", "medimg")],
        "sagemaker": [("medimg.backends.sagemaker.backend:SageMakerBackend", "medimg")],
    }
    for entry in metadata.entry_points(group=GROUP):
        brought = (entry.value, entry.dist.name if entry.dist else "?")
        if brought not in known.setdefault(entry.name, []):
            known[entry.name].append(brought)
    return known


def _load(target: str) -> type[Backend]:
    module, _, name = target.partition(":")
    loaded: type[Backend] = getattr(import_module(module), name)
    return loaded


def backend(name: str = "local", **options: Any) -> Backend:
    """Returns a backend: where training runs, models are registered and endpoints are served.

    Args:
        name: See `available_backends`.
        options: The backend's own keywords.

    Raises:
        ConfigError: No backend of that name, or an option it does not have.
        MissingExtraError: The backend's packages are not installed.
    """
    known = _known()
    if name not in known:
        raise ConfigError(f"there is no backend {name!r}.{did_you_mean(name, known)}")
    if len(known[name]) > 1:
        packages = " and ".join(package for _, package in known[name])
        raise ConfigError(f"two packages bring a backend named {name!r}: {packages}. Uninstall one of them")
    made = _load(known[name][0][0])
    accepted = made.options()
    for option in options:
        if option not in accepted:
            raise ConfigError(f"the backend {name!r} has no option {option!r}.{did_you_mean(option, accepted)}")
    return made(**options)


def available_backends() -> tuple[BackendInfo, ...]:
    """Returns the backends that are known here, which of them can be used, and what to install for the others."""
    found = []
    for name, brought in sorted(_known().items()):
        if len(brought) > 1:
            packages = [package for _, package in brought]
            found.append(BackendInfo(name, False, " and ".join(packages), f"pip uninstall {packages[-1]}"))
            continue
        target, package = brought[0]
        try:
            _load(target)
        except MissingExtraError as error:
            found.append(BackendInfo(name, False, package, f"pip install 'medimg[{error.extra}]'"))
        except (ImportError, AttributeError) as error:
            found.append(BackendInfo(name, False, package, f"pip install --upgrade {package}  ({error})"))
        else:
            found.append(BackendInfo(name, True, package))
    return tuple(found)
