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
from medimg.backends.azureml.deployments import SLOTS, Content, Deployment, Deployments, check_settings, is_busy
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
_FREED_SECONDS = 300.0  # in which Azure may still refuse the name of an endpoint that is gone
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
        self._freed: dict[str, float] = {}  # until when Azure may still refuse a name

    # -- making -------------------------------------------------------------------------------------------------------

    def deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Uploads the model and starts the endpoint."""
        check_settings(config)
        if config.ttl_hours is not None:
            self._deadlines.require_identity()
        token, digest = secrets.token_hex(4), str(details["digest"])
        self._take(name, Claim(token, digest, details["config"], owner=token))
        ends = config.ttl_hours is not None
        with (
            Display(name) as display,
            self._undone_on_error(name, partial(self._undo_deploy, name, token, ends, display)),
        ):
            content = self._prepared(folder, details, display)
            with heartbeat("starting", display):
                # Preparing may have taken long, and what follows costs money.
                self._claims.renew(name, token)
                if config.ttl_hours is not None:
                    self._deadlines.at(name, token, config.ttl_hours)
                self._make(name, token, details["config"], display)
                self._make_deployment(name, SLOTS[0], token, content, config, config.min_instances, silent)
                self._claims.release(name, token)

    def _prepared(self, folder: Path, details: Mapping[str, Any], report: Report) -> Content:
        content = self._deployments.prepare(folder, str(details["digest"]), report)
        return replace(content, version=str(details.get("version", "")))

    def _take(self, name: str, claim: Claim) -> None:
        """Claims a name that no endpoint has.

        Raises:
            AlreadyExistsError: It is taken.
        """
        before, etag = self._claims.read(name)  # first: whoever makes the endpoint meanwhile changes it
        if self._records.is_going(name):
            with Display(name) as display:
                self._finish(name, "deleting", lambda: not self._records.is_going(name), display)
            self._note_freed(name)
            before, etag = self._claims.read(name)
        self._records.require_free(name)
        if before is not None and before.alive:
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        if before is not None:
            self._note_freed(name)  # nobody knows for how long
        try:
            self._claims.write(name, claim, etag)
        except AlreadyExistsError:
            if self._claims.read(name)[0] is not None:
                raise
            self._claims.write(name, claim, "")  # whoever deleted the endpoint has forgotten it meanwhile

    def _note_freed(self, name: str) -> None:
        self._freed[name] = time.monotonic() + _FREED_SECONDS

    def _make(self, name: str, token: str, config: Mapping[str, Any], report: Report) -> None:
        """Makes the endpoint, and returns when it is there."""
        body = {
            "location": self._workspace.location,
            "tags": self._records.tags(token, config),
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": _AUTH[self._auth], "traffic": {}, "publicNetworkAccess": "Enabled"},
        }
        while True:
            self._records.require_free(name)  # Azure's PUT would change one that was made meanwhile
            try:
                with translated(f"deploying {name!r}"):
                    self._workspace.arm("PUT", self._records.id(name), ENDPOINT_API, body, wait=True)
                return
            except BackendError as error:
                found = self._records.told(name)
                refused = found is None and (isinstance(error, NotFoundError) or "already" in str(error))
                if refused and time.monotonic() < self._freed.get(name, 0.0):
                    time.sleep(self.poll_seconds)
                    self._claims.renew(name, token)
                    continue
                if refused and "already" in str(error):
                    raise ConfigError(
                        f"the name {name!r} is taken: in {self._workspace.location} there can be one endpoint of a "
                        f"name, whoever made it. Pass another name=. Azure said: {error}"
                    ) from error
                # An answer may have been lost on its way, and the second request met what the first one began.
                if not is_busy(error) or found is None or token_of(found) != token:
                    raise
                self._finish(name, "starting", lambda: not self._is_busy(name), report)
                return

    def _make_deployment(
        self, name: str, slot: str, token: str, content: Content, config: ServeConfig, instances: int, report: Report
    ) -> None:
        """Begins to make a deployment, as soon as Azure has done what else it does to the endpoint."""

        def done() -> bool:
            self._claims.renew(name, token)
            self._deployments.make(name, slot, token, content, config, instances)
            return True

        self._finish(name, "starting", done, report)

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
            content = self._prepared(folder, details, display)
            self._claims.renew(name, token)
            slot = next(slot for slot in SLOTS if slot != serving.slot)
            for each in self._deployments.of(name):
                if each.slot == slot:
                    self._delete_deployment(name, each, display)  # or waits until it is gone
            # As many machines as the load has made of them.
            instances = max(config.min_instances, min(serving.instances, config.max_instances))
            self._make_deployment(name, slot, token, content, config, instances, display)
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
            self._delete_endpoint(name, token, report)
        if ends:
            self._deadlines.delete(name, token)
        self._claims.delete(name, token)
        self._models.delete_unused(self.digests)

    def _undo_update(self, name: str, token: str, report: Report) -> None:
        for each in self._deployments.of(name):
            if each.token == token:
                self._delete_deployment(name, each, report)
        claim, etag = self._claims.read(name)
        seen = self._records.seen(name)
        if claim is not None and claim.owner == token and seen is not None and seen.serving is not None:
            self._claims.write(name, replace(claim, owner="", digest=seen.serving.digest), etag)
        self._models.delete_unused(self.digests)

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
            except MedimgError as error:
                if not is_busy(error):  # else whoever looks next tries again
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

    def http_request(self, name: str) -> tuple[str, Mapping[str, str]]:
        """Returns where an image is sent, and with what headers."""
        self._require_ready(name)
        return self._scoring.http_request(name)

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
            self._switch(name, seen.waiting)
            seen = self._records.seen(name)
        elif seen.serving is not None and seen.newest is not None and seen.newest.failed:
            self._note_failure(seen)
        if seen is None or seen.serving is None:
            return
        others = [each for each in seen.deployments if each != seen.serving]
        for each in others:
            # A newer one that does not answer yet is another process's, which is updating it.
            if each.failed or each.created < seen.serving.created:
                self._delete_deployment(name, each, silent)
        if others:
            self._models.delete_unused(self.digests)
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
            log=tuple(self._deployments.last_words(seen.name, newest.slot, _LAST_LINES)),
        )
        with suppress(AlreadyExistsError):  # another has noted it
            self._claims.write(seen.name, failed, etag)

    def _switch(self, name: str, waiting: Deployment) -> None:
        """Has the requests sent to a deployment, and returns when they are, or a newer one is there."""

        def done() -> bool:
            seen = self._records.seen(name)
            if seen is None:
                raise self._records.missing(name)
            if seen.busy:
                return False
            newest = seen.newest  # another process may have made one of the same slot
            if newest is not None and newest.token == waiting.token and newest != seen.serving:
                self._send_requests_to(seen, newest.slot, wait=True)
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
        deadline, said = time.monotonic() + _BUSY_SECONDS, ""
        with heartbeat(stage, report):
            while True:
                try:
                    if done():
                        return
                except BackendError as error:
                    if not is_busy(error):
                        raise
                    said = f" Azure said last: {error}"
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"Azure has not finished {stage} the endpoint {name!r} in {_BUSY_SECONDS / 60:.0f} minutes. "
                        f"Try again later.{said}"
                    )
                time.sleep(self.poll_seconds)

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """Deletes an endpoint with its deployments, deadline, scaling and, where no other needs it, its model."""
        told = self._records.told(name)
        claim = self._claims.read(name)[0] if NAME.fullmatch(name) else None
        if (told is None and claim is None) or (told is not None and not self._workspace.owns(told.get("tags"))):
            raise self._records.missing(name)
        token = token_of(told) if told is not None else claim.token if claim is not None else ""
        with Display(name) as display:
            self._delete_endpoint(name, token, display)
        if claim is not None and claim.config.get("ttl_hours") is not None:
            self._deadlines.delete(name, claim.token)  # without it the workflow would notice, and delete itself
        for slot in SLOTS:
            self._scaling.delete(name, slot)
        if claim is not None:
            self._claims.delete(name, claim.token)
        self._models.delete_unused(self.digests)

    def _delete_endpoint(self, name: str, token: str, report: Report) -> None:
        """Deletes the endpoint that a deploy made, and returns when it is gone: only then nothing is billed."""
        self._scoring.forget(name)

        def state() -> str | None:
            found = self._records.told(name)  # which may be another's by now
            return state_of(found) if found is not None and token_of(found) == token else None

        def done() -> bool:
            found = state()
            if found is not None and found != "Deleting":
                with suppress(NotFoundError), translated(f"deleting the endpoint {name!r}"):
                    self._workspace.arm("DELETE", self._records.id(name), ENDPOINT_API, wait=True)
                found = state()
            return found is None

        self._finish(name, "deleting", done, report)
        self._note_freed(name)

    def _delete_deployment(self, name: str, deployment: Deployment, report: Report) -> None:
        """Deletes a deployment with its scaling, and returns when it is gone: only then it is not billed."""
        slot, token = deployment.slot, deployment.token

        def state() -> str | None:
            there = (each.state for each in self._deployments.of(name) if (each.slot, each.token) == (slot, token))
            return next(there, None)

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
        # In this order: who makes something after it was listed has claimed the name before, or an endpoint by then.
        deadlines, scalings = list(self._deadlines.all()), list(self._scaling.all())
        claims = self._claims.all()
        tokens = {str(told["name"]): token_of(told) for told in self._records.ours()}
        wanted = {name: claim.token for name, claim in claims.items() if claim.alive} | tokens
        for name, token in deadlines:
            if wanted.get(name) != token:
                self._deadlines.delete(name, token)
        for name, slot in scalings:
            if name not in tokens:
                self._scaling.delete(name, slot)
        for name in claims.keys() - wanted.keys():
            self._claims.delete(name, claims[name].token)
        self._deployments.delete_code(self.used)

    def used(self) -> bool:
        """Tells whether there is an endpoint of ours, or somebody is making one."""
        return any(claim.alive for claim in self._claims.all().values()) or bool(self._records.ours())
