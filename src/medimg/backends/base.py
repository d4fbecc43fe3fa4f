"""The contract: what a user can ask of any backend.

The verbs (`train`, `register`, `deploy`, …) are written here once and are final. An adapter for a new cloud subclasses
`Backend`, implements what `medimg.backends.primitives` asks for, and proves itself with
`medimg.testing.BackendConformance`.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from medimg.artifact import ModelFolder
from medimg.backends.cost import Measured, comparable, estimate
from medimg.backends.doctor import Checks
from medimg.backends.endpoint import Endpoint
from medimg.backends.estimate import CostEstimate
from medimg.backends.identity import check_name, inputs_folder
from medimg.backends.job import Job
from medimg.backends.model_version import ModelVersion, version_of
from medimg.backends.primitives import Primitives
from medimg.backends.resource import Kind, Resource
from medimg.backends.submission import Submission, prepare_prediction, prepare_training
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.data.dataset import Dataset, Split
from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    MedimgError,
    NotFoundError,
    UnreachableError,
)
from medimg.home import atomic_folder, home
from medimg.progress import Display, Stopwatch

__all__ = ["Backend"]

_KINDS: tuple[Kind, ...] = ("endpoint", "job", "model")  # endpoints first: they may cost money
_AT_ONCE = 8  # endpoints that are deleted at the same time

Deployable = ModelFolder | Job | ModelVersion | str | os.PathLike[str]


class Backend(Primitives):
    """Where training runs, models are registered and endpoints are served."""

    # == verbs ========================================================================================================

    @final
    def train(
        self,
        dataset: Dataset,
        config: TrainConfig | None = None,
        *,
        resources: Resources | None = None,
        name: str | None = None,
        wait: bool = True,
        allow: Collection[str] = (),
        force: bool = False,
    ) -> Job:
        """Trains a classifier and returns its job.

        An identical call (same configuration, data and code) attaches to the job that is running or done. After a
        failure it goes on from the last checkpoint.

        Args:
            dataset: The images.
            config: How to train; None: the defaults.
            resources: Machine and limits; None: the backend's defaults.
            name: Begins the job's id; None: "medimg".
            wait: Whether to show progress and return when the job is done; else return when it is submitted.
            allow: Names of checks to override, such as "tiny-validation".
            force: Whether to train anew although an identical job exists.

        Raises:
            ConfigError: A model, option or name that does not exist.
            AuditError: A check of the data failed; the message says how to override it.
            JobFailedError: The job failed (only with `wait`); the message ends with its last log lines.
        """
        config = config or TrainConfig()
        with Display(name or "train") as display:
            watch = Stopwatch(display)
            work = prepare_training(
                dataset, config, resources or Resources(), check_name(name or "medimg", what="a job"), allow, watch,
                self._framework(),
            )  # fmt: skip
            job = self._run(work, force, watch)
        return job.wait() if wait else job

    @final
    def predict_batch(
        self,
        model: Deployable,
        dataset: Dataset | str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        split: Split | None = None,
        resources: Resources | None = None,
        wait: bool = True,
    ) -> Job:
        """Predicts many images as a job; `job.predictions` is a table keyed by sample id.

        Images that cannot be read are left out, and told there. A job that was killed goes on where it was by an
        identical call.

        Args:
            model: What to predict with, as in `deploy`.
            dataset: The images: a dataset, or what `Dataset.from_images` takes, such as a folder without labels.
            split: Only this split; None: all images.
            resources: Machine and limits.
            wait: As in `train`.

        Raises:
            DatasetError: No such split, or no images.
            JobFailedError: The job failed (only with `wait`).
        """
        folder = self._model_folder(model)
        if not isinstance(dataset, Dataset):
            dataset = Dataset.from_images(dataset)
        with Display("predict") as display:
            watch = Stopwatch(display)
            job = self._run(prepare_prediction(folder, dataset, split, resources or Resources(), watch), False, watch)
        return job.wait() if wait else job

    @final
    def register(self, model: Deployable, *, name: str | None = None) -> ModelVersion:
        """Puts a model into the registry as a new version and returns it.

        Args:
            model: The model, as in `deploy`.
            name: Of the registered model; None: the name its job was given.
        """
        folder = self._model_folder(model)
        name = check_name(name or folder.record.job.rsplit("-", 2)[0] or "medimg", what="a registered model")
        details = {"digest": folder.digest, "job": folder.record.job, "metrics": folder.headline}
        version = self._register(name, folder.path, details)
        return ModelVersion(self, self._describe("model", f"{name}/{version}"))

    @final
    def models(self, name: str | None = None) -> tuple[ModelVersion, ...]:
        """Returns the registered versions, of one model or of all, oldest first."""
        found = [ModelVersion(self, resource) for resource in self._list("model")]
        return tuple(
            sorted((v for v in found if name in (None, v.name)), key=lambda v: (v.name, v.created, int(v.version)))
        )

    @final
    def deploy(
        self, model: Deployable | None = None, config: ServeConfig | None = None, *, name: str | None = None
    ) -> Endpoint:
        """Serves a model and returns its endpoint when it is ready.

        Deploying the same model under the same name with the same settings again returns the endpoint that is there.

        Args:
            model: A `ModelFolder`, a job, a registered version, or a path; None: the latest completed job's.
            config: How to serve; None: the defaults.
            name: Of the endpoint; None: made from the model's digest.

        Raises:
            NotFoundError: Nothing was trained yet.
            AlreadyExistsError: The name serves another model, or with other settings.
            EndpointError: The endpoint did not become ready; the message ends with its log.
            MedimgError: It became ready and could not be finished, such as its scaling. It is deleted again.
        """
        config = config or ServeConfig()
        folder = self._model_folder(model if model is not None else self._latest())
        name = check_name(name or f"medimg-{folder.digest[:8]}", what="an endpoint")
        endpoint = Endpoint(self, name)
        details = {"digest": folder.digest, "config": config.model_dump(mode="json"), "version": version_of(model)}
        try:
            self._deploy(name, folder.path, config, details)
        except AlreadyExistsError:
            existing = self._describe("endpoint", name)
            if existing.status == "failed":
                differs = "has failed"
            elif existing.details.get("digest") != folder.digest:
                differs = "serves another model"
            elif existing.details.get("config") != details["config"]:
                differs = "serves this model with other settings"
            else:
                return endpoint.wait()
            raise AlreadyExistsError(
                f"an endpoint {name!r} exists and {differs}. "
                f"Delete it with backend.endpoint({name!r}).delete(), or pass another name="
            ) from None
        return endpoint._wait(undo=True)

    @final
    def job(self, id: str) -> Job:
        """Returns the handle of a job, also from another process than the one that submitted it.

        Raises:
            NotFoundError: No such job.
        """
        self._describe("job", id)
        return Job(self, id)

    @final
    def jobs(self) -> tuple[Job, ...]:
        """Returns the jobs, newest first."""
        found = sorted(self._list("job"), key=lambda resource: resource.created, reverse=True)
        return tuple(Job(self, resource.id) for resource in found)

    @final
    def endpoint(self, name: str) -> Endpoint:
        """Returns the handle of an endpoint, also from another process than the one that deployed it.

        Raises:
            NotFoundError: No such endpoint.
        """
        self._describe("endpoint", name)
        return Endpoint(self, name)

    @final
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns the endpoints by name."""
        return tuple(Endpoint(self, resource.id) for resource in sorted(self._list("endpoint"), key=lambda r: r.id))

    @final
    def estimate(
        self,
        dataset: Dataset,
        config: TrainConfig | None = None,
        resources: Resources | None = None,
        *,
        serve: ServeConfig | None = None,
        hours: float | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> CostEstimate:
        """Returns what training on a dataset costs, and serving the model; starts nothing and uploads nothing.

        Args:
            dataset: The images.
            config: How to train; None: the defaults.
            resources: Machine and limits; None: the backend's defaults.
            serve: How to serve; None: not at all.
            hours: That the training takes, if you know; None: as long as the latest comparable job, else `max_hours`.
            prices: Prices that you know, by instance or by key (see `medimg.backends.rates`), per hour or unit.

        Raises:
            ConfigError: A number that cannot be, or a price of something that is not needed.
        """
        config = config or TrainConfig()
        resources, serve = self._with_defaults(resources or Resources(), serve)
        return estimate(
            self._rates(resources, serve, prices), images=len(dataset), config=config, resources=resources, serve=serve,
            hours=hours, measured=self._measured(config, resources) if hours is None else None,
        )  # fmt: skip

    @final
    def doctor(self, resources: Resources | None = None) -> Checks:
        """Returns what is in order and what is not, each with the command that repairs it.

        Args:
            resources: The machine whose quota and image to check; None: the backend's default.
        """
        resources, _ = self._with_defaults(resources or Resources(), None)
        return Checks(self._checks(resources))

    @final
    def inventory(self) -> tuple[Resource, ...]:
        """Returns everything of ours: endpoints (which may cost money) first, then jobs and models."""
        return tuple(resource for kind in _KINDS for resource in sorted(self._list(kind), key=lambda r: r.created))

    @final
    def cleanup(self, *, kinds: Collection[Kind] = _KINDS) -> tuple[Resource, ...]:
        """Stops and deletes everything of ours of the given kinds, and returns what was deleted.

        What cannot be deleted does not keep the rest alive.

        Raises:
            BackendError: Something is left; the message names each with the reason.
        """
        deleted: list[Resource] = []
        left: list[tuple[str, MedimgError]] = []

        def end(resource: Resource) -> Resource | None:
            try:
                self._remove(resource.kind, resource.id)
            except NotFoundError:
                return None  # another process, or its own deadline, was faster
            except MedimgError as error:
                left.append((f"{resource.kind} {resource.id}", error))
                return None
            return resource

        # Kind by kind: a registry that does not answer must not keep an endpoint alive.
        for kind in (kind for kind in _KINDS if kind in kinds):
            try:
                found = sorted(self._list(kind), key=lambda r: r.created)
            except MedimgError as error:
                left.append((f"the list of {kind}s", error))
                continue
            # Of endpoints each takes a while to end and is billed meanwhile.
            with ThreadPoolExecutor(_AT_ONCE if kind == "endpoint" else 1) as pool:
                deleted += filter(None, pool.map(end, found))
        try:
            self._tidy(kinds)
        except MedimgError as error:
            left.append(("what belongs to none of them", error))
        if left:
            reasons = "\n".join(f"  {what}: {error}" for what, error in left)
            raise BackendError(
                f"{len(deleted)} deleted, but not all; call cleanup() again when this is solved:\n{reasons}"
            ) from left[0][1]
        return tuple(deleted)

    # == what the verbs share =========================================================================================

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Returns the keywords that the backend's constructor takes."""
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(cls.__init__).parameters.values()
        return tuple(p.name for p in parameters if p.name != "self" and p.kind in named)

    @final
    def _run(self, work: Submission, force: bool, report: Stopwatch) -> Job:
        attempts = [resource for resource in self._list("job") if resource.id.rpartition("-")[0] == work.base]
        latest = max(attempts, key=lambda resource: int(resource.id.rpartition("-")[2]), default=None)
        if latest is not None and not force and latest.status not in ("failed", "cancelled"):
            return Job(self, latest.id)
        attempt = 1 if latest is None else int(latest.id.rpartition("-")[2]) + 1
        if latest is None:
            checkpoints = work.base
        elif force:
            checkpoints = f"{work.base}-{attempt}"
        else:
            checkpoints = latest.details.get("checkpoints", work.base)
        spec = work.spec(attempt, checkpoints, report.timings)
        try:
            self._submit(spec, work.pack, inputs_folder(), report)
        except AlreadyExistsError:
            if force:
                raise
            # Another process submitted the same job a moment ago: one job, two handles.
        return Job(self, spec.id)

    @final
    def _latest(self) -> Job:
        done = [r for r in self._list("job") if r.status == "completed" and r.details.get("task", "train") == "train"]
        if not done:
            raise NotFoundError(
                f"the {self.name} backend has no completed training job to deploy. Train first: "
                "backend.train(dataset), or pass a model: backend.deploy('path/of/model')"
            )
        return Job(self, max(done, key=lambda resource: resource.created).id)

    @final
    def _measured(self, config: TrainConfig, resources: Resources) -> Measured | None:
        try:
            return comparable(self._list("job"), config, resources)
        except (AccessError, UnreachableError):
            return None  # prices are asked for before there is an account, too

    @final
    def _model_folder(self, model: Deployable) -> ModelFolder:
        if isinstance(model, Job):
            model = model.model
        if isinstance(model, ModelFolder):
            # Verified anew: its files may have been changed since it was loaded.
            return ModelFolder.load(model.path, digest=model.digest)
        if isinstance(model, ModelVersion):
            return model.load()
        if isinstance(model, (str, os.PathLike)):
            return ModelFolder.load(Path(model))
        raise ConfigError(
            f"a model is a ModelFolder, a job, a registered version or a path, not {type(model).__name__}"
        )

    @final
    def _fetched(self, kind: Kind, id: str) -> Path:
        """Returns the local copy of a job's results or a registered model, fetching it the first time."""
        folder = home() / "fetched" / self._place() / kind / id
        if not folder.exists():
            with atomic_folder(folder) as temporary, Display(id) as display:
                self._fetch(kind, id, temporary, display)
        return folder

    @final
    def _remove(self, kind: Kind, id: str) -> None:
        self._delete(kind, id)
        shutil.rmtree(home() / "fetched" / self._place() / kind / id, ignore_errors=True)
