"""Managed online endpoints: a name with an HTTPS address, and behind it the deployment that answers.

An endpoint costs nothing, its deployments do: they are made last, and their end, if they have one, is set before. While
an endpoint is updated it has two; all requests go to the old one until the new one answers. Who fails takes away what
it made itself, and nothing else; what was left by one who was killed is finished by whoever looks next.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medimg.backends.azureml.claims import Claim, Claims
from medimg.backends.azureml.deadlines import ENDPOINT_API, Deadlines
from medimg.backends.azureml.deployments import SLOTS, Deployments
from medimg.backends.azureml.environments import Environments
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.models import Models
from medimg.backends.azureml.records import Records, Seen, state_of, token_of
from medimg.backends.azureml.scaling import Scaling
from medimg.backends.azureml.scoring import Scoring
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.identity import NAME
from medimg.backends.resource import Resource
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, EndpointError, MedimgError, NotFoundError
from medimg.progress import Display, Report, heartbeat, silent

__all__ = ["Endpoints"]

_AUTH = {"key": "Key", "entra": "AADToken"}
_BUSY_SECONDS = 1800.0
_LAST_LINES = 200  # kept of a model that did not become ready
_TOLD_ONLY = ("scoringUri", "swaggerUri", "provisioningState", "keys")


class Endpoints:
    """The endpoints of a workspace.

    Attributes:
        poll_seconds: Between two questions about what Azure has not finished.

    Args:
        workspace: Whose.
        models: What they serve.
        environments: What they run in.
        auth: How those that are made are asked: with their key, or a login.

    Raises:
        ConfigError: There is no such way.
    """

    poll_seconds = 2.0

    def __init__(
        self, workspace: Workspace, models: Models, environments: Environments, *, auth: Literal["key", "entra"] = "key"
    ) -> None:
        if auth not in _AUTH:
            raise ConfigError(f"auth={auth!r}: endpoints are asked with their 'key' or, with 'entra', a login")
        self._workspace = workspace
        self._models = models
        self._auth = auth
        self._claims = Claims(workspace)
        self._deadlines = Deadlines(workspace)
        self._deployments = Deployments(workspace, models, environments)
        self._records = Records(workspace, self._deployments, self._claims)
        self._scaling = Scaling(workspace)
        self._scoring = Scoring(workspace, self._require_ready)

    # -- making -------------------------------------------------------------------------------------------------------

    def deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Uploads the model and starts the endpoint."""
        _check(config)
        if config.ttl_hours is not None:
            self._deadlines.require_identity()
        token, digest = secrets.token_hex(4), str(details["digest"])
        self._take(name, Claim(token, digest, details["config"], owner=token))
        ends = config.ttl_hours is not None
        with (
            Display(name) as display,
            self._undone_on_error(name, partial(self._undo_deploy, name, token, ends, display)),
        ):
            content = self._deployments.prepare(folder, digest, display)
            with heartbeat("starting", display):
                # Preparing may have taken long, and what follows costs money.
                self._claims.renew(name, token)
                if config.ttl_hours is not None:
                    self._deadlines.at(name, token, config.ttl_hours)
                self._make(name, token, details["config"], display)
                self._deployments.make(name, SLOTS[0], token, content, config, config.min_instances)
                self._claims.release(name, token)

    def _take(self, name: str, claim: Claim) -> None:
        """Claims a name that no endpoint has.

        Raises:
            AlreadyExistsError: It is taken.
        """
        before, etag = self._claims.read(name)  # first: whoever makes the endpoint meanwhile changes it
        found = self._records.told(name)
        if found is not None and state_of(found) == "Deleting":
            with Display(name) as display:
                self._delete_endpoint(name, display)  # waits until it is gone
            found = None
        if found is not None and not self._workspace.owns(found.get("tags")):
            raise ConfigError(
                f"the name {name!r} is taken by an endpoint without the tag medimg={self._workspace.prefix}. Pass "
                "another name="
            )
        if found is not None or (before is not None and before.alive):
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        self._claims.write(name, claim, etag)

    def _make(self, name: str, token: str, config: Mapping[str, Any], report: Report) -> None:
        """Makes the endpoint, and returns when it is there."""
        body = {
            "location": self._workspace.location,
            "tags": self._records.tags(token, config),
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": _AUTH[self._auth], "traffic": {}, "publicNetworkAccess": "Enabled"},
        }
        try:
            with translated(f"deploying {name!r}"):
                self._workspace.arm("PUT", self._records.id(name), ENDPOINT_API, body, wait=True)
        except BackendError as error:
            found = self._records.told(name)
            if found is None and "already" in str(error):
                raise ConfigError(
                    f"the name {name!r} is taken: in {self._workspace.location} there can be one endpoint of a name, "
                    f"whoever made it. Pass another name=. Azure said: {error}"
                ) from error
            # An answer may have been lost on its way, and the second request met what the first one began.
            if not isinstance(error, AlreadyExistsError) or found is None or token_of(found) != token:
                raise
            self._finish(name, "starting", lambda: not self._is_busy(name), report)

    def _is_busy(self, name: str) -> bool:
        seen = self._records.seen(name)
        return seen is not None and seen.busy

    def update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        """Starts to serve another model; when it answers, whoever looks has the requests sent there."""
        self.settle(name)  # what an update before has left
        before, etag = self._claims.read(name)
        seen = self._records.seen(name)
        if seen is None:
            raise self._records.missing(name)
        serving = seen.serving
        if serving is None:
            raise EndpointError(f"the endpoint {name!r} serves nothing. Delete it and deploy the new model")
        if (before is not None and before.alive) or seen.newest != serving:
            raise AlreadyExistsError(
                f"the endpoint {name!r} is being updated by another process. Wait for it: "
                f"backend.endpoint({name!r}).wait()"
            )
        config, digest, token = seen.config, str(details["digest"]), secrets.token_hex(4)
        self._claims.write(name, Claim(token_of(seen.told), digest, details["config"], owner=token), etag)
        with (
            Display(name) as display,
            self._undone_on_error(name, partial(self._undo_update, name, token, display)),
        ):
            content = self._deployments.prepare(folder, digest, display)
            self._claims.renew(name, token)
            slot = next(slot for slot in SLOTS if slot != serving.slot)
            if any(each.slot == slot for each in self._deployments.of(name)):
                self._delete_deployment(name, slot, display)  # or waits until it is gone
            # As many machines as the load has made of them.
            instances = max(config.min_instances, min(serving.instances, config.max_instances))
            self._deployments.make(name, slot, token, content, config, instances)
            self._claims.release(name, token)

    @contextmanager
    def _undone_on_error(self, name: str, undo: Callable[[], None]) -> Iterator[None]:
        """Where the block fails, takes away what it made."""
        try:
            yield
        except BaseException as error:
            try:
                undo()
            except BaseException as another:  # it must not hide the first one
                why = str(another) or type(another).__name__
                error.add_note(
                    f"What was made of the endpoint {name!r} could not be deleted ({why}), and may be billed: delete "
                    f"it with backend.endpoint({name!r}).delete() or backend.cleanup()"
                )
            if isinstance(error, AlreadyExistsError):  # said of something else than the endpoint, which was ours
                raise BackendError(str(error)) from error
            raise

    def _undo_deploy(self, name: str, token: str, ends: bool, report: Report) -> None:
        found = self._records.told(name)
        if found is not None and token_of(found) == token:
            self._delete_endpoint(name, report)
        if ends:
            self._deadlines.delete(name, token)
        claim, _ = self._claims.read(name)
        if claim is not None and claim.token == token:
            self._claims.delete(name)
        self._models.delete_unused(self.digests())

    def _undo_update(self, name: str, token: str, report: Report) -> None:
        for each in self._deployments.of(name):
            if each.token == token:
                self._delete_deployment(name, each.slot, report)
        claim, etag = self._claims.read(name)
        seen = self._records.seen(name)
        if claim is not None and claim.owner == token and seen is not None and seen.serving is not None:
            self._claims.write(name, replace(claim, owner="", digest=seen.serving.digest), etag)
        self._models.delete_unused(self.digests())

    # -- reading ------------------------------------------------------------------------------------------------------

    def describe(self, name: str) -> Resource:
        """Returns an endpoint as it is now; where a new deployment answers, has the requests sent there."""
        seen = self._records.seen(name)
        if seen is None:
            return self._records.being_made(name)
        reason = ""
        if seen.waiting is not None and not seen.busy:
            try:
                self._send_requests_to(seen, seen.waiting.slot)
            except AlreadyExistsError:
                pass  # Azure is doing something else to it: whoever looks next tries again
            except MedimgError as error:
                reason = str(error)  # `settle` raises it
        return self._records.resource(seen, reason)

    def all(self) -> list[Resource]:
        """Returns all endpoints of ours."""
        return [self._records.resource(seen) for seen in self._records.all()]

    def digests(self) -> set[str]:
        """Returns the digests of the models that endpoints serve, or are about to."""
        return self._records.digests()

    def log(self, name: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position, and the position after them."""
        seen = self._records.seen(name)
        if seen is None:
            self._records.being_made(name)  # raises where nobody makes it
            return [], after
        lines = self._deployments.log(name, seen.serving.slot) if seen.serving is not None else []
        if seen.newest is not None and seen.newest != seen.serving:
            lines += self._deployments.log(name, seen.newest.slot)
        elif seen.claim is not None:
            lines += seen.claim.log
        return lines[after:], max(after, len(lines))

    def invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Sends an encoded image and returns the answer."""
        return self._scoring.ask(name, body)

    def _require_ready(self, name: str) -> None:
        try:
            found = self.describe(name)
        except NotFoundError:
            self._scoring.forget(name)
            raise
        if found.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {found.status}")

    # -- finishing ----------------------------------------------------------------------------------------------------

    def settle(self, name: str) -> None:
        """Has the requests sent to the newest deployment that answers, deletes the other, and sets the scaling."""
        seen = self._records.seen(name)
        if seen is None:
            return
        if seen.waiting is not None:
            self._switch(name, seen.waiting.slot)
            seen = self._records.seen(name)
        elif seen.serving is not None and seen.newest is not None and seen.newest.failed:
            self._note_failure(seen)
        if seen is None or seen.serving is None:
            return
        others = [each for each in seen.deployments if each != seen.serving]
        for each in others:
            # A newer one that does not answer yet is another process's, which is updating it.
            if each.failed or each.created < seen.serving.created:
                self._delete_deployment(name, each.slot, silent)
        if others:
            self._models.delete_unused(self.digests())
        self._scaling.set(name, seen.serving.slot, seen.config)

    def _note_failure(self, seen: Seen) -> None:
        """Keeps why an update failed: its deployment is billed, and about to be deleted."""
        newest, serving = seen.newest, seen.serving
        if newest is None or serving is None:
            return
        claim, etag = self._claims.read(seen.name)
        claim = claim or Claim(token_of(seen.told), serving.digest, seen.config.model_dump(mode="json"))
        failed = replace(
            claim,
            digest=serving.digest,
            failure=self._deployments.reason(seen.name, newest),
            log=tuple(self._deployments.log(seen.name, newest.slot, _LAST_LINES)),
        )
        with suppress(AlreadyExistsError):  # another has noted it
            self._claims.write(seen.name, failed, etag)

    def _switch(self, name: str, slot: str) -> None:
        """Has the requests sent to a deployment, and returns when they are."""

        def done() -> bool:
            seen = self._records.seen(name)
            if seen is None:
                raise self._records.missing(name)
            if seen.busy:
                return False
            if seen.serving is None or seen.serving.slot != slot:
                self._send_requests_to(seen, slot, wait=True)
            return True

        self._finish(name, "switching", done, silent)

    def _send_requests_to(self, seen: Seen, slot: str, *, wait: bool = False) -> None:
        told = seen.told
        kept = {key: value for key, value in told["properties"].items() if key not in _TOLD_ONLY and value is not None}
        body = {
            "location": told["location"],
            "tags": told["tags"],
            "identity": {"type": "SystemAssigned"},
            "properties": {**kept, "traffic": {slot: 100}},
        }
        with translated(f"sending the requests of {seen.name!r} to {slot!r}"):
            self._workspace.arm("PUT", self._records.id(seen.name), ENDPOINT_API, body, wait=wait)

    def _finish(self, name: str, stage: str, done: Callable[[], bool], report: Report) -> None:
        """Calls `done` until it says so; while something else is done to an endpoint, Azure refuses."""
        deadline = time.monotonic() + _BUSY_SECONDS
        with heartbeat(stage, report):
            while True:
                with suppress(AlreadyExistsError):
                    if done():
                        return
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"Azure has not finished {stage} the endpoint {name!r} in {_BUSY_SECONDS / 60:.0f} minutes. "
                        "Try again later"
                    )
                time.sleep(self.poll_seconds)

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """Deletes an endpoint with its deployments, deadline, scaling and, where no other needs it, its model."""
        told = self._records.told(name)
        claim = self._claims.read(name)[0] if NAME.fullmatch(name) else None
        if (told is None and claim is None) or (told is not None and not self._workspace.owns(told.get("tags"))):
            raise self._records.missing(name)
        with Display(name) as display:
            self._delete_endpoint(name, display)
        if claim is not None and claim.config.get("ttl_hours") is not None:
            self._deadlines.delete(name, claim.token)  # without it the workflow would notice, and delete itself
        for slot in SLOTS:
            self._scaling.delete(name, slot)
        self._claims.delete(name)
        self._models.delete_unused(self.digests())

    def _delete_endpoint(self, name: str, report: Report) -> None:
        """Deletes an endpoint, and returns when it is gone: only then nothing is billed."""
        self._scoring.forget(name)

        def done() -> bool:
            found = self._records.told(name)
            if found is not None and state_of(found) != "Deleting":
                with suppress(NotFoundError), translated(f"deleting the endpoint {name!r}"):
                    self._workspace.arm("DELETE", self._records.id(name), ENDPOINT_API, wait=True)
                found = self._records.told(name)
            return found is None

        self._finish(name, "deleting", done, report)

    def _delete_deployment(self, name: str, slot: str, report: Report) -> None:
        """Deletes a deployment with its scaling, and returns when it is gone: only then it is not billed."""

        def state() -> str | None:
            return next((each.state for each in self._deployments.of(name) if each.slot == slot), None)

        def done() -> bool:
            found = state()
            if found is not None and found != "Deleting":
                self._scaling.delete(name, slot)
                self._deployments.delete(name, slot)
                found = state()
            return found is None

        self._finish(name, "tidying", done, report)

    def delete_leftovers(self) -> None:
        """Deletes what belongs to no endpoint: a deploy was cut off, or an endpoint's time was up."""
        claims = self._claims.all()
        tokens = {str(told["name"]): token_of(told) for told in self._records.ours()}
        wanted = {name: claim.token for name, claim in claims.items() if claim.alive} | tokens
        for name, token in self._deadlines.all():
            if wanted.get(name) != token:
                self._deadlines.delete(name, token)
        for name, slot in self._scaling.all():
            if name not in tokens:
                self._scaling.delete(name, slot)
        for name in claims.keys() - wanted.keys():
            self._claims.delete(name)
        if not wanted:
            self._deployments.delete_code()


def _check(config: ServeConfig) -> None:
    if config.kind != "realtime":
        raise ConfigError(
            f"kind={config.kind!r}: AzureML has managed online endpoints, which keep a machine. Take kind='realtime', "
            "with ttl_hours= where it shall end by itself, or predict with backend.predict_batch(…)"
        )
    if config.http_api:
        raise ConfigError("http_api=True: an AzureML endpoint already is an HTTPS address with a key. Leave it out")
    if config.url_hosts:
        raise ConfigError("url_hosts: an AzureML endpoint fetches no images. Leave it out, and send the image")
    if config.auth == "none":
        raise ConfigError("auth='none': an AzureML endpoint always asks for its key, or a login. Leave it out")
    if config.memory_mb is not None:
        raise ConfigError("memory_mb: an endpoint on AzureML has the memory of its machine. Take instance='Standard_…'")
    if config.min_instances < 1:
        raise ConfigError("min_instances=0: an endpoint on AzureML keeps a machine. End it by itself with ttl_hours=")
    if config.max_instances < config.min_instances:
        raise ConfigError(f"max_instances={config.max_instances} is less than min_instances={config.min_instances}")
