"""The primitives: what an adapter fills in for one place, with plain data in and out.

`Backend` writes the verbs on top of them, once for all. Those above the second line must be there; the others have a
default that is right for a place without the thing in question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medimg.backends.doctor import Check
from medimg.backends.rates import Rate
from medimg.backends.resource import Kind, Resource
from medimg.config import Framework, JobSpec, Resources, ServeConfig
from medimg.errors import BackendError, ConfigError
from medimg.key_file import KeyFile
from medimg.progress import Report

__all__ = ["Primitives"]


class Primitives(ABC):
    """What an adapter implements.

    Common to all: NotFoundError where the named thing does not exist, UnreachableError where the backend does not
    answer (never guessed to be a failure), MedimgError for everything else.

    Class attributes:
        name: What `medimg.backend` takes.
        job_poll_seconds: Between two questions about a job that is waited for.
        endpoint_poll_seconds: Likewise about an endpoint that is starting.
        log_delay_seconds: How long the last lines of an ended job's log may take to arrive.
        keys_advice: Where endpoints' keys are not kept by medimg, how they are changed.
    """

    name: ClassVar[str]
    job_poll_seconds: ClassVar[float] = 0.5
    endpoint_poll_seconds: ClassVar[float] = 0.5
    log_delay_seconds: ClassVar[float] = 0.0
    keys_advice: ClassVar[str] = "they are changed there"

    # == what an adapter must have ====================================================================================

    @abstractmethod
    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        """Uploads what the job needs and starts `python -m {spec.module}` on it.

        Args:
            spec: The job; its id is its name.
            pack: Folder of the packed dataset.
            inputs: Folder that holds, among others, the entries named in `spec.inputs`.
            report: To be told of uploading.

        Raises:
            AlreadyExistsError: A job of that id exists; must be decided atomically.
        """

    @abstractmethod
    def _describe(self, kind: Kind, id: str) -> Resource:
        """Returns one thing as it is now."""

    @abstractmethod
    def _list(self, kind: Kind) -> list[Resource]:
        """Returns all of ours of a kind, in any order."""

    @abstractmethod
    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        """Returns the whole lines of a job's or endpoint's log after a position, and the position after them.

        Lines are there while the job runs, and in order. Position 0 is the beginning; others are the adapter's own.
        """

    @abstractmethod
    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        """Downloads what a job wrote to `--out`, or a registered model folder, into an empty folder."""

    @abstractmethod
    def _stop(self, id: str) -> None:
        """Sends SIGTERM to a job, later SIGKILL; its status becomes "cancelled". A finished job stays as it is."""

    @abstractmethod
    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        """Uploads a model folder as a new version of a registered model and returns its number, such as "2"."""

    @abstractmethod
    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Starts serving a model folder; returns before it is ready.

        Args:
            name: Of the endpoint.
            folder: The model.
            config: How to serve it.
            details: What `_describe` tells of it, and "version", such as "chest/2" or "", which its answers carry.

        Raises:
            AlreadyExistsError: An endpoint of that name exists; must be decided atomically.
        """

    @abstractmethod
    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Sends an encoded image to an endpoint and returns the JSON of its answer.

        Raises:
            ImageRejected: The endpoint could not read the image.
            EndpointError: It is not ready, or failed.
        """

    @abstractmethod
    def _delete(self, kind: Kind, id: str) -> None:
        """Deletes a thing and all that belongs to it; a running job is stopped first."""

    # == what an adapter may have =====================================================================================

    def _place(self) -> str:
        """Returns the name of the folder for local copies: it tells accounts and regions apart, where there are any."""
        return self.name

    def _framework(self) -> Framework:
        """Returns what Keras computes with in this backend's jobs; it is a part of their names."""
        return "tensorflow"

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        """Starts to serve another model under the same name; the old one answers until the new one is ready.

        While that goes on the status is "updating". If the new one does not become ready, the old one stays, the
        status is "ready" again, and `reason` says why.
        """
        raise BackendError(
            f"the {self.name} backend cannot update an endpoint in place. Delete it and deploy the new model"
        )

    def _http_request(self, name: str, body: bytes) -> tuple[str, Mapping[str, str]]:
        """Returns where a load test sends an encoded image, and the headers that let it in; asked again as they age.

        The answer to the request is that of `_invoke`: `Prediction.to_json()` and the model's digest.

        Raises:
            EndpointError: It is not ready.
        """
        raise BackendError(
            f"the {self.name} backend cannot load-test an endpoint by its name. Give its address and key: "
            "medimg load-test URL --key-file FILE"
        )

    def _keys(self, name: str) -> KeyFile:
        """Returns the keys of an endpoint, to be added, rotated and revoked.

        Raises:
            NotFoundError: There is no such endpoint.
            ConfigError: It has no keys, or they are not ours to change.
        """
        command = self._describe("endpoint", name).details.get("key_command")
        if command == "":
            raise ConfigError(f"the endpoint {name!r} asks for no key: it was deployed with auth='none'")
        kept = "is asked with the cloud's own credentials" if command is None else f"has the key printed by: {command}"
        raise ConfigError(f"the endpoint {name!r} {kept}\nIts keys are kept by {self.name}; {self.keys_advice}")

    def _request_log(self, name: str) -> Iterable[str]:
        """Returns the lines among which an endpoint's request log is, in any order: here its whole log."""
        return self._log("endpoint", name, 0)[0]

    def _health(self, name: str) -> Mapping[str, Any]:
        """Returns what `medimg.inference.request_lines.health_of` makes of the request log, or the server's own."""
        from medimg.inference.request_lines import health_of

        return health_of(self._request_log(name))

    def _settle(self, name: str) -> None:  # noqa: B027 - most have nothing to do here
        """Finishes what could only be done once an endpoint is ready, such as its scaling; may be called again."""

    def _with_defaults(self, resources: Resources, serve: ServeConfig | None) -> tuple[Resources, ServeConfig | None]:
        """Returns the settings with what the backend takes where the user leaves it open, such as the instance."""
        return resources, serve

    def _rates(
        self, resources: Resources, serve: ServeConfig | None, given: Mapping[str, float] | None
    ) -> Mapping[str, Rate]:
        """Returns prices by the keys of `medimg.backends.rates`, each with its source; what the user gives wins."""
        return {}

    def _checks(self, resources: Resources) -> Sequence[Check]:
        """Returns what `doctor` tells; a check that fails is returned, not raised."""
        return ()

    def _tidy(self, kinds: Collection[Kind]) -> None:  # noqa: B027 - most have nothing to do here
        """Removes what no job, model or endpoint of ours needs any more; called at the end of `cleanup`."""
