"""`Endpoint`: a served model. It is a backend and a name, so it survives a restart."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from medimg.backends.model_version import version_of
from medimg.backends.resource import Resource
from medimg.errors import EndpointError, MedimgError, NotFoundError, UnreachableError
from medimg.progress import Display, Event

if TYPE_CHECKING:
    from medimg.backends.base import Backend, Deployable
    from medimg.backends.health import Health
    from medimg.backends.load.load_test import LoadTest
    from medimg.data.decode import ImageLike
    from medimg.inference.decision import Prediction
    from medimg.key_file import KeyFile

__all__ = ["Endpoint"]

_LAST_LINES = 15
_AT_ONCE = 8  # images of predict_many on their way at the same time
_BUSY = (429, 503)  # statuses of a server that asks to be tried again
_PATIENCE_SECONDS = 60.0  # how long it is tried again
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 8.0


class Endpoint:
    """A served model: `backend.endpoint(name)` brings it back in any process. Delete it when you are done.

    Attributes:
        backend: Where it runs.
        name: Its name.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend = backend
        self.name = name

    @property
    def _resource(self) -> Resource:
        return self.backend._describe("endpoint", self.name)

    @property
    def status(self) -> str:
        """One of "starting", "ready", "updating" (it answers) and "failed", asked anew each time."""
        return self._resource.status

    @property
    def url(self) -> str:
        """The address that takes an encoded image by POST."""
        return str(self._resource.details.get("url", ""))

    @property
    def keys(self) -> KeyFile:
        """The keys that let others ask; `predict` needs none of them handed over.

        Raises:
            ConfigError: It asks for none, or the cloud keeps them; the message says where.
        """
        return self.backend._keys(self.name)

    def predict(self, image: ImageLike) -> Prediction:
        """Returns the decision for one image: a path, bytes, a PIL image or uint8 (height, width[, 3]).

        An endpoint that is too busy (429, 503) is asked again for up to a minute, when it says or ever more rarely.

        Raises:
            ImageRejected: The image cannot be read.
            EndpointError: The endpoint is not ready, failed, or stayed too busy.
        """
        from medimg.inference.decision import Prediction

        return Prediction.from_json(self._answer(image))

    def _answer(self, image: ImageLike) -> Mapping[str, Any]:
        """Returns the JSON of the answer for one image."""
        from medimg.data.encode import encode

        body = encode(image)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self.backend._invoke(self.name, body)
            except EndpointError as error:
                # Spread, so that all who were sent away do not come back at the same moment.
                seconds = max(pause, error.retry_after or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
                if error.status not in _BUSY or time.monotonic() + seconds > deadline:
                    raise
            time.sleep(seconds)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def predict_many(self, images: Iterable[ImageLike]) -> list[Prediction]:
        """Returns the decisions for several images in their order; several are on their way at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.predict, images))

    def load_test(
        self,
        clients: Sequence[int] = (1, 8, 64),
        *,
        seconds: float = 10.0,
        image: ImageLike | Sequence[ImageLike] | None = None,
        patient: bool = True,
        timeout: float = 60.0,
        allow_cost: bool = False,
    ) -> LoadTest:
        """Returns how many answers a second the endpoint gives, and how long its clients wait, step by step.

        The clients are in a process of their own. Each sends an image, waits for the answer, and sends the next.

        Args:
            clients: That ask at once, a number a step.
            seconds: That each step is measured, after connecting and a warm-up.
            image: What is sent, or several, in turns; None: a generated radiograph of 1300×970 pixels. It is sent as
                JPEG, with nothing but its pixels.
            patient: Whether a client that is refused with 429 or 503 waits as long as Retry-After says; False has it
                ask again at once.
            timeout: Seconds that a client waits for a connection, and for an answer.
            allow_cost: Whether 1,000 clients or more may ask an endpoint that is not on this machine.

        Raises:
            ConfigError: A number that cannot be, or very many clients without `allow_cost`.
            ImageRejected: The image cannot be read, here or there.
            EndpointError: The endpoint is not ready, or refuses the first request.
        """
        from medimg.backends.load.pictures import bodies
        from medimg.backends.load.run import run_load_test

        return run_load_test(
            lambda body: self.backend._http_request(self.name, body), bodies(image), name=self.name, clients=clients,
            seconds=seconds, patient=patient, timeout=timeout, allow_cost=allow_cost,
        )  # fmt: skip

    def health(self) -> Health:
        """Returns how the images that it answered last compare with those that the model was validated on.

        Asked of the server where it runs here, else read from its log.

        Raises:
            EndpointError: It is not ready, or does not tell.
        """
        from medimg.backends.health import Health

        return Health.from_json(self.backend._health(self.name))

    def logs(self) -> Iterator[str]:
        """Yields the lines of the server's log."""
        lines, _ = self.backend._log("endpoint", self.name, 0)
        yield from lines

    def wait(self, timeout: float = 1800.0) -> Self:
        """Waits until the endpoint is ready and returns it.

        Raises:
            EndpointError: It failed; the message ends with its log.
            TimeoutError: It is still starting; it goes on.
        """
        return self._wait(timeout)

    def _wait(self, timeout: float = 1800.0, *, undo: bool = False) -> Self:
        """Waits; `undo`: the endpoint is new, so it is deleted again where it cannot be finished."""
        goes_on = (
            f"it goes on, and is billed where machines are. Wait again with backend.endpoint({self.name!r}).wait(), or "
            f"delete it with backend.endpoint({self.name!r}).delete()"
        )
        with Display(self.name) as display:
            try:
                url = self._until_ready(timeout, goes_on, display)
            except KeyboardInterrupt:
                display(Event("log", message=f"the endpoint {self.name!r} was not waited for: {goes_on}"))
                raise
            try:
                self.backend._settle(self.name)
            except MedimgError as error:
                if undo:
                    self._undo(error)
                raise
            display(Event("done", "ready", message=url))
        return self

    def _until_ready(self, timeout: float, goes_on: str, display: Display) -> str:
        """Returns the address when the endpoint is ready."""
        started = time.monotonic()
        while True:
            try:
                resource = self._resource
            except UnreachableError as error:
                display(Event("stage", "unreachable", message=str(error)))
            else:
                if resource.status == "ready":
                    return str(resource.details.get("url", ""))
                if resource.status == "failed":
                    raise EndpointError(
                        f"the endpoint {self.name!r} failed: {resource.details.get('reason', 'no reason given')}. "
                        f"Delete it with backend.endpoint({self.name!r}).delete()\n{self._last_words()}"
                    )
                display(Event("stage", resource.status, message=f"{time.monotonic() - started:.0f} s"))
            if time.monotonic() > started + timeout:
                raise TimeoutError(f"the endpoint {self.name!r} is not ready after {timeout:g} s: {goes_on}")
            time.sleep(self.backend.endpoint_poll_seconds)

    def _undo(self, error: MedimgError) -> None:
        """Deletes an endpoint that serves, but not as it was asked to: its caller takes it for failed."""
        try:
            self.delete()
        except MedimgError as another:
            error.add_note(
                f"The endpoint {self.name!r} could not be deleted ({another}), and is billed where machines are: "
                f"delete it with backend.endpoint({self.name!r}).delete()"
            )

    def _last_words(self) -> str:
        try:
            lines = [line for line in self.logs() if line.strip()][-_LAST_LINES:]
        except MedimgError as error:
            return f"Its log cannot be read: {error}"
        return "Last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)

    def update(self, model: Deployable) -> Self:
        """Serves another model under the same name; the old one answers until the new one is ready.

        Args:
            model: As in `Backend.deploy`.

        Raises:
            EndpointError: The new model did not become ready; the old one goes on serving.
        """
        folder = self.backend._model_folder(model)
        before = self._resource
        if before.status in ("starting", "updating"):
            # What is served is not decided yet: it may be this model, or another than now.
            self.wait()
            before = self._resource
        version = version_of(model)
        # The same model under another version is a change where it can be told: answers carry the version.
        if before.details["digest"] == folder.digest and version in ("", before.details.get("version", version)):
            return self.wait()
        details = {"digest": folder.digest, "config": before.details["config"], "version": version}
        self.backend._update(self.name, folder.path, details)
        self.wait()
        after = self._resource.details
        if after["digest"] != folder.digest:
            raise EndpointError(
                f"the new model did not become ready: {after.get('reason', 'no reason given')}. The endpoint "
                f"{self.name!r} goes on with the one before\n{self._last_words()}"
            )
        return self

    def delete(self) -> None:
        """Deletes the endpoint with all that belongs to it; deleting it twice is no error."""
        try:
            self.backend._remove("endpoint", self.name)
        except NotFoundError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()

    def __repr__(self) -> str:
        try:
            resource = self._resource
        except NotFoundError:
            return f"Endpoint({self.backend.name!r}, {self.name!r}, deleted)"
        return f"Endpoint({self.backend.name!r}, {self.name!r}, {resource.status}, {resource.details.get('url', '')})"
