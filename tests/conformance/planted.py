"""Backends with one bug each, to see whether the conformance suite notices: `planted:make`.

`BUGS` names each bug with the class that has it and the tests to run against it; the last of them must catch it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medimg_folder import FolderBackend

from medimg.backends.job import Job
from medimg.backends.resource import Kind, Resource
from medimg.config import JobSpec, ServeConfig
from medimg.errors import AlreadyExistsError, EndpointError, ImageRejected, NotFoundError
from medimg.progress import Report


class Honest(FolderBackend):
    """The folder backend with the fast trainer: nothing planted."""

    def _module(self, spec: JobSpec) -> str:
        return "fast_trainer" if spec.kind == "train" else spec.module


class NoOpDelete(Honest):
    """Deletes nothing, and says nothing."""

    def _delete(self, kind: Kind, id: str) -> None:
        self._describe(kind, id)


class RepeatedVersions(Honest):
    """Every registration is version 1."""

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        shutil.rmtree(self._root / "model" / name, ignore_errors=True)
        return super()._register(name, folder, details)


class ReusedVersions(Honest):
    """The number of a deleted version is given to the next model."""

    def _delete(self, kind: Kind, id: str) -> None:
        super()._delete(kind, id)
        if kind == "model":
            shutil.rmtree(self._root / "model" / id)


class RacingVersions(Honest):
    """Looks for the next version and then takes it, also if somebody else did so in between."""

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        version = str(1 + max((int(p.name) for p in (self._root / "model" / name).glob("[0-9]*")), default=0))
        time.sleep(0.3)
        with self._making(self._root / "model" / name / version, details) as (draft, _):
            shutil.copytree(folder, draft / "model")
            if not (self._root / "model" / name / version).exists():
                self._publish(draft, self._root / "model" / name / version)
        return version


class LostLogs(Honest):
    """Loses the last line of every answer."""

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        lines, position = super()._log(kind, id, after)
        return lines[:-1], position


class LostErrors(Honest):
    """Keeps standard output only: no traceback."""

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        lines, position = super()._log(kind, id, after)
        return [line for line in lines if line.startswith("{")], position


class LateLogs(Honest):
    """Logs come when the job has ended."""

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        if kind == "job" and self._describe(kind, id).status in ("queued", "running"):
            return [], after
        return super()._log(kind, id, after)


class RepeatedLogs(Honest):
    """Ignores the position: every answer begins at the beginning."""

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        lines, position = super()._log(kind, id, 0)
        return (lines, position) if position > after else ([], position)


class ShuffledLogs(Honest):
    """Streams are merged by their text."""

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        lines, position = super()._log(kind, id, after)
        return sorted(lines), position


class ForgetfulStatus(Honest):
    """A process that did not start the job takes it for dead."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._mine: set[str] = set()

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        super()._submit(spec, pack, inputs, report)
        self._mine.add(spec.id)

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        if found.status == "running" and id not in self._mine:
            return replace(found, status="failed")
        return found


class OwnJobsOnly(ForgetfulStatus):
    """Lists the jobs of this process, as a backend does that keeps its list in memory."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        return FolderBackend._describe(self, kind, id)

    def _list(self, kind: Kind) -> list[Resource]:
        return [found for found in super()._list(kind) if kind != "job" or found.id in self._mine]


class OverriddenVerb(Honest):
    """Its `jobs` is its own."""

    def jobs(self) -> tuple[Job, ...]:  # type: ignore[misc]
        """Returns the jobs, newest first."""
        return super().jobs()


class OtherSignature(Honest):
    """A primitive asks for less than it is given."""

    def _stop(self, job: str) -> None:  # type: ignore[override]
        super()._stop(job)


class DeafStop(Honest):
    """Says that it will stop the job."""

    def _stop(self, id: str) -> None:
        self._describe("job", id)


class StopIsFailure(Honest):
    """A cancelled job counts as failed."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        return replace(found, status="failed") if found.status == "cancelled" else found


class SubmitsAgain(Honest):
    """A submit of a job that exists starts it once more."""

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        try:
            super()._submit(spec, pack, inputs, report)
        except AlreadyExistsError:
            super()._delete("job", spec.id)
            super()._submit(spec, pack, inputs, report)


class RacingSubmit(Honest):
    """Looks whether the job exists, and then submits: two at once both find nothing."""

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        if (self._root / "job" / spec.id).exists():
            raise AlreadyExistsError(spec.id)
        time.sleep(0.2)
        try:
            super()._submit(spec, pack, inputs, report)
        except AlreadyExistsError:
            return


class NewCheckpoints(Honest):
    """Every attempt starts with nothing."""

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        shutil.rmtree(self._root / "checkpoints", ignore_errors=True)
        super()._submit(spec, pack, inputs, report)


class NoDeadline(Honest):
    """Ignores `max_hours` and `ttl_hours`."""

    def _plan(self, draft: Path, command: list[Any], hours: float | None, *, temporary: bool) -> None:
        super()._plan(draft, command, None, temporary=temporary)


class TruncatedFetch(Honest):
    """The download of the largest file was cut off."""

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        super()._fetch(kind, id, target, report)
        largest = max((path for path in target.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-100])


class WrongVersion(Honest):
    """Whatever version is asked for, the newest is fetched."""

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        if kind == "model":
            name = self._describe(kind, id).id.rpartition("/")[0]
            id = max((r.id for r in self._list("model") if r.id.startswith(f"{name}/")), key=lambda i: int(i[-1]))
        super()._fetch(kind, id, target, report)


class FirstModelServed(Honest):
    """Serves the first model that it was ever given."""

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        kept = self._root / "first"
        if not kept.exists():
            kept.symlink_to(folder)
        super()._deploy(name, kept, config, details)


class SilentRedeploy(Honest):
    """Deploying over an endpoint replaces what it serves."""

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        if (self._root / "endpoint" / name).exists():
            self._delete("endpoint", name)
        super()._deploy(name, folder, config, details)


class IgnoredSettings(Honest):
    """Says of every endpoint that it has the settings that were asked for last."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._asked: Mapping[str, Any] = {}

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        self._asked = config.model_dump(mode="json")
        super()._deploy(name, folder, config, details)

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        return replace(found, details={**found.details, "config": self._asked}) if kind == "endpoint" else found


class StaleAnswers(Honest):
    """Gives the answer to the image before."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._last: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        answer = super()._invoke(name, body)
        with self._lock:
            before, self._last = self._last, answer
        return before or answer


class HidesDoubt(Honest):
    """An answer never says that it is uncertain."""

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        return {**super()._invoke(name, body), "uncertain": False}


class SwallowsRejections(Honest):
    """A broken image is called clear."""

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        try:
            return super()._invoke(name, body)
        except ImageRejected:
            return {
                "label": "CLEAR", "probabilities": {"CLEAR": 1.0, "NODULE": 0.0}, "positives": [], "threshold": {},
                "latency_ms": 1.0,
            }  # fmt: skip


class RejectionIsFailure(Honest):
    """A broken image looks like a broken endpoint."""

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        try:
            return super()._invoke(name, body)
        except ImageRejected as error:
            raise EndpointError(str(error)) from error


class InventsThings(Honest):
    """Describes what it has never heard of."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        try:
            return super()._describe(kind, id)
        except NotFoundError:
            return Resource(kind, id, "failed", time.time(), {"checkpoints": "", "task": "train", "digest": ""})


class CreatedNow(Honest):
    """Takes the time of the question for the time of creation."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        return replace(super()._describe(kind, id), created=time.time())


class CreatedNever(Honest):
    """Knows no time of creation."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        return replace(super()._describe(kind, id), created=0.0)


class NoReason(Honest):
    """Does not say why a job failed."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        return replace(found, details={name: value for name, value in found.details.items() if name != "reason"})


class EndpointsUnlisted(Honest):
    """Finds an endpoint by name but does not list it: nobody will ever clean it up."""

    def _list(self, kind: Kind) -> list[Resource]:
        return [] if kind == "endpoint" else super()._list(kind)


class ReadyAtOnce(Honest):
    """Calls an endpoint ready before its server answers."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        return replace(found, status="ready") if found.status == "starting" else found


class UpdateWithGap(Honest):
    """Takes the old model away before the new one can answer."""

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        self._delete("endpoint", name)
        self._deploy(name, folder, ServeConfig.model_validate(details["config"]), details)


class UpdateThatForgets(Honest):
    """Says that the new model is served, and serves the old one."""

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        self._claimed = (name, details["digest"])

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        name, digest = getattr(self, "_claimed", ("", ""))
        return (
            replace(found, details={**found.details, "digest": digest}) if (kind, id) == ("endpoint", name) else found
        )


class SharedModelFiles(Honest):
    """An endpoint reads the registry's files, which are deleted with the version."""

    def _delete(self, kind: Kind, id: str) -> None:
        super()._delete(kind, id)
        if kind == "model":
            for endpoint in self._list("endpoint"):
                super()._delete("endpoint", endpoint.id)


class OtherResults(Honest):
    """Whichever job's results are asked for, the oldest of its kind answers."""

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        if kind == "job":
            task = self._describe(kind, id).details["task"]
            jobs = [found for found in self._list("job") if found.details["task"] == task]
            id = min(jobs, key=lambda found: found.created).id
        super()._fetch(kind, id, target, report)


class TellsNames(Honest):
    """Keeps the path of the data beside the job, for convenience."""

    def _describe(self, kind: Kind, id: str) -> Resource:
        found = super()._describe(kind, id)
        return replace(found, details={**found.details, "source": "confidential-ward-7/train/CLEAR/patient0001-1.png"})


BUGS: dict[str, tuple[type[FolderBackend], tuple[str, ...]]] = {
    "a delete that does nothing": (NoOpDelete, ("test_cleanup_leaves_nothing",)),
    "an update with a gap": (UpdateWithGap, ("test_an_endpoint_is_given_another_model_without_a_gap",)),
    "an update that serves the old model": (
        UpdateThatForgets, ("test_an_endpoint_is_given_another_model_without_a_gap",),
    ),
    "versions that repeat": (RepeatedVersions, ("test_every_registration_is_a_higher_version",)),
    "a deleted version's number given again": (
        ReusedVersions, ("test_a_deleted_version_is_gone_and_the_others_stay",),
    ),
    "two registrations at once, one version": (
        RacingVersions, ("test_registrations_at_the_same_moment_are_different_versions",),
    ),
    "the last log line lost": (LostLogs, ("test_the_log_is_complete_and_in_order",)),
    "standard error lost": (LostErrors, ("test_a_failed_job_says_why_and_shows_its_last_lines",)),
    "logs that come at the end": (LateLogs, ("test_log_lines_are_there_while_the_job_runs",)),
    "log lines that repeat": (RepeatedLogs, ("test_following_the_log_ends_with_the_job",)),
    "log lines out of order": (ShuffledLogs, ("test_the_log_is_complete_and_in_order",)),
    "a running job reported failed by another process": (
        ForgetfulStatus, ("test_another_process_sees_a_running_job_as_running",),
    ),
    "jobs of other processes not listed": (
        OwnJobsOnly, ("test_identical_submits_at_the_same_moment_make_one_job",),
    ),
    "an overridden verb": (OverriddenVerb, ("test_the_verbs_are_those_of_the_base_class",)),
    "another signature": (OtherSignature, ("test_the_primitives_have_the_signature_of_the_base_class",)),
    "a stop that does not stop": (DeafStop, ("test_a_cancelled_job_ends_as_cancelled",)),
    "a cancelled job that is called failed": (StopIsFailure, ("test_a_cancelled_job_ends_as_cancelled",)),
    "a second submit that starts the job again": (SubmitsAgain, ("test_the_same_job_cannot_be_submitted_twice",)),
    "a submit that is not atomic": (
        RacingSubmit, ("test_identical_submits_at_the_same_moment_make_one_job",),
    ),
    "checkpoints that are lost": (NewCheckpoints, ("test_a_new_attempt_goes_on_from_the_last_checkpoint",)),
    "hours that are ignored": (
        NoDeadline,
        (
            "test_a_job_that_runs_too_long_fails_and_says_so",
            "test_an_endpoint_ends_after_its_hours_though_nobody_is_there",
        ),
    ),
    "a model that arrives cut off": (
        TruncatedFetch, ("test_a_completed_job_has_a_model_a_report_metrics_and_a_history",),
    ),
    "another version than was asked for": (WrongVersion, ("test_models_are_listed_oldest_first",)),
    "another model than was deployed": (
        FirstModelServed,
        (
            "test_deploy_without_a_model_takes_the_last_completed_training",
            "test_an_endpoint_serves_the_version_it_was_given_also_after_that_was_deleted",
        ),
    ),
    "a deploy over an endpoint": (
        SilentRedeploy,
        (
            "test_deploying_the_same_model_again_returns_the_endpoint",
            "test_deploying_another_model_under_a_taken_name_is_refused",
        ),
    ),
    "an endpoint with other settings taken for the same": (
        IgnoredSettings, ("test_deploying_with_other_settings_under_a_taken_name_is_refused",),
    ),
    "answers to other images": (StaleAnswers, ("test_predict_many_keeps_the_order",)),
    "answers that hide their doubt": (
        HidesDoubt,
        (
            "test_an_endpoint_is_given_another_model_without_a_gap",
            "test_an_endpoint_serves_the_version_it_was_given_also_after_that_was_deleted",
        ),
    ),
    "rejections that are swallowed": (
        SwallowsRejections, ("test_a_broken_image_is_rejected_and_the_endpoint_lives_on",),
    ),
    "rejections that look like failures": (
        RejectionIsFailure, ("test_a_broken_image_is_rejected_and_the_endpoint_lives_on",),
    ),
    "an endpoint called ready too soon": (
        ReadyAtOnce, ("test_an_endpoint_is_listed_with_address_status_and_log",),
    ),
    "an endpoint that dies with its registered version": (
        SharedModelFiles, ("test_an_endpoint_serves_the_version_it_was_given_also_after_that_was_deleted",),
    ),
    "endpoints that are not listed": (EndpointsUnlisted, ("test_cleanup_leaves_nothing",)),
    "things that do not exist are described": (InventsThings, ("test_what_does_not_exist_is_not_found",)),
    "a time of creation that moves": (
        CreatedNow, ("test_the_inventory_describes_everything_with_the_promised_details",),
    ),
    "no time of creation": (CreatedNever, ("test_the_inventory_describes_everything_with_the_promised_details",)),
    "no reason for a failure": (NoReason, ("test_a_job_that_runs_too_long_fails_and_says_so",)),
    "results of another job": (OtherResults, ("test_batch_predictions_of_a_split_are_of_that_split",)),
    "paths told to the backend": (TellsNames, ("test_no_file_name_leaves_the_machine",)),
}  # fmt: skip


def make(bug: str, root: str) -> FolderBackend:
    """Returns the backend with a bug, or with none."""
    return (BUGS[bug][0] if bug else Honest)(root)
