"""Jobs: one that completes, one that is watched, cancelled and resumed, one that fails, and predictions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.backends.job import Job
from medimg.config import JobSpec, Resources
from medimg.data.dataset import Dataset
from medimg.errors import AlreadyExistsError, BackendError, JobFailedError, MedimgError, NotFoundError
from medimg.inference.predictor import TOLERANCE
from medimg.progress import Event, Report, parse, silent
from medimg.testing.suite import Suite, Trained
from medimg.testing.workspace import Workspace, has_ended, recipe, until

__all__ = ["JobTests"]

_LONG = recipe(epochs=2000, seed=1)  # never waited for


@dataclass
class Watched:
    """A long job, as it was seen while it ran, when it was cancelled, and in its second and third attempt.

    Attributes:
        earlier: The job that was submitted before it.
        job: Its first attempt.
        at_return: Its status when `train(wait=False)` returned.
        live: The lines that were there while it ran.
        live_status: Its status after those were read.
        there: What another process saw meanwhile.
        followed: The lines that `logs(follow=True)` yielded, and whether it ended.
        cancelled: Its status in the end.
        resumed: The second attempt, by an identical call.
        attached: The id that a further identical call returned.
        forced: The third attempt, by `force=True`.
        checkpoints: Of the three attempts.
    """

    earlier: Job
    job: Job
    at_return: str
    live: list[str] = field(default_factory=list)
    live_status: str = ""
    there: dict[str, Any] = field(default_factory=dict)
    followed: list[str] = field(default_factory=list)
    follow_ended: bool = False
    cancelled: str = ""
    resumed: Job | None = None
    attached: str = ""
    forced: Job | None = None
    checkpoints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failed:
    """A job that crashed.

    Attributes:
        error: What `train` raised.
        job: The job.
        again: Its second attempt, by an identical call.
    """

    error: JobFailedError
    job: Job
    again: Job


class JobTests(Suite):
    """Training and prediction jobs."""

    # -- a job that completes -----------------------------------------------------------------------------------------

    def test_a_completed_job_has_a_model_a_report_metrics_and_a_history(self, trained: Trained) -> None:
        """What the five lines of the documentation use."""
        job = trained.job
        assert job.status == "completed"
        assert job.model.record.job == job.id
        assert job.model.record.config == trained.config
        assert job.metrics == pytest.approx(job.model.record.metrics["test"])
        assert [row["epoch"] for row in job.history] == list(range(1, trained.config.epochs + 1))
        # The log and the model are two ways to the same history: a line that is lost shows here.
        assert job.history == job.model.history
        assert job.report.metrics

    def test_an_identical_train_attaches_to_the_completed_job(
        self, workspace: Workspace, dataset: Dataset, trained: Trained
    ) -> None:
        """No second job is made, and the result is there at once."""
        before = [job.id for job in workspace.backend().jobs()]
        again = workspace.backend().train(dataset, trained.config, name="conformance")
        assert again.id == trained.job.id
        assert [job.id for job in workspace.backend().jobs()] == before

    def test_the_same_job_cannot_be_submitted_twice(self, workspace: Workspace, trained: Trained) -> None:
        """The primitive itself refuses: between the look and the submit another process may have been faster."""
        lines = list(trained.job.logs())
        with pytest.raises(AlreadyExistsError):
            workspace.backend()._submit(trained.spec, trained.pack, trained.inputs, silent)
        assert trained.job.status == "completed"
        assert list(trained.job.logs()) == lines

    def test_another_process_gets_the_same_results(self, workspace: Workspace, trained: Trained) -> None:
        """Status, log, figures and a model of the same digest, fetched there."""
        workspace.forget()
        there = workspace.elsewhere("results", job=trained.job.id)
        assert there["status"] == "completed"
        assert there["digest"] == trained.job.model.digest
        assert there["metrics"] == trained.job.metrics
        assert there["history"] == trained.job.history
        assert there["lines"] == list(trained.job.logs())

    def test_the_log_is_complete_and_in_order(self, trained: Trained) -> None:
        """It begins with the first thing the job says, ends with the last, and its clock never runs backwards."""
        events = _events(trained.job.logs())
        assert (events[0].kind, events[0].stage) == ("stage", "importing")
        assert [event.kind for event in events].index("done") == len(events) - 1
        times = [event.time for event in events]
        # The heartbeat's thread may write a moment after the line it overtook.
        assert all(later >= earlier - 0.2 for earlier, later in pairwise(times))
        epochs = [event.done for event in events if event.kind == "epoch" and event.stage == "fitting"]
        assert epochs == list(range(1, trained.config.epochs + 1))

    def test_the_log_can_be_read_in_pieces(self, workspace: Workspace, trained: Trained) -> None:
        """A position goes on where the last answer ended, also for a backend that did not give it."""
        whole = list(trained.job.logs())
        pieces: list[str] = []
        position = 0
        while True:
            lines, position = workspace.backend()._log("job", trained.job.id, position)
            if not lines:
                break
            pieces += lines
        assert pieces == whole
        assert workspace.backend()._log("job", trained.job.id, position) == ([], position)

    def test_following_the_log_of_an_ended_job_ends(self, trained: Trained) -> None:
        """It yields the same lines and returns."""
        assert list(trained.job.logs(follow=True)) == list(trained.job.logs())

    def test_timings_add_up_to_no_more_than_the_job_took(self, trained: Trained) -> None:
        """Seconds of each stage, by the clock of the machine that did the work."""
        timings = trained.job.timings
        assert {"importing", "fitting", "evaluating"} <= set(timings)
        assert all(seconds >= 0 for seconds in timings.values())
        stages = [seconds for name, seconds in timings.items() if not name.startswith("epoch ")]
        assert 0 < sum(stages) <= trained.between[1] - trained.between[0] + 1
        # Epochs are parts of stages; a trainer may not time them.
        assert sum(timings.values()) - sum(stages) <= sum(stages)
        assert {"packing", "queueing"} <= set(timings), "what came before the job is told too"

    def test_cancelling_a_completed_job_changes_nothing(self, workspace: Workspace, trained: Trained) -> None:
        """It may have ended a moment before the call."""
        workspace.backend().job(trained.job.id).cancel()
        assert trained.job.status == "completed"

    # -- a job that is watched, cancelled and resumed -----------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def watched(cls, workspace: Workspace, dataset: Dataset, trained: Trained) -> Watched:
        """A long job and its three attempts. What happens is noted here and judged in the tests."""
        backend = workspace.backend()
        job = backend.train(dataset, _LONG, wait=False)
        seen = Watched(trained.job, job, at_return=job.status)
        follower = threading.Thread(target=_follow, args=(workspace.backend().job(job.id), seen), daemon=True)
        follower.start()
        seen.live = _until_first_epoch(job, workspace)
        seen.live_status = job.status
        seen.there = workspace.elsewhere("look", job=job.id)
        workspace.backend().job(job.id).cancel()
        until(lambda: has_ended(job), cls.flags)
        seen.cancelled = job.status
        follower.join(timeout=5 + 20 * cls.flags.poll_seconds)
        seen.resumed = workspace.backend().train(dataset, _LONG, wait=False)
        _until_first_epoch(seen.resumed, workspace)
        seen.attached = workspace.backend().train(dataset, _LONG, wait=False).id
        seen.forced = workspace.backend().train(dataset, _LONG, wait=False, force=True)
        for attempt in (job, seen.resumed, seen.forced):
            seen.checkpoints.append(attempt._resource.details["checkpoints"])
            attempt.cancel()
        until(lambda: all(map(has_ended, (seen.resumed, seen.forced))), cls.flags)  # type: ignore[arg-type]
        return seen

    def test_train_without_waiting_returns_while_the_job_runs(self, watched: Watched) -> None:
        """The job is known at once, and it is not over."""
        assert watched.at_return in ("queued", "running")
        assert watched.live_status == "running"

    def test_log_lines_are_there_while_the_job_runs(self, watched: Watched) -> None:
        """The user's bar lives on them."""
        assert [event.done for event in _events(watched.live) if event.kind == "epoch"], "no epoch before the end"

    def test_another_process_sees_a_running_job_as_running(self, watched: Watched) -> None:
        """With the lines so far, and in its list of jobs."""
        assert watched.there["status"] == "running"
        assert watched.there["lines"][: len(watched.live)] == watched.live
        assert watched.job.id in watched.there["jobs"]

    def test_a_cancelled_job_ends_as_cancelled(self, watched: Watched) -> None:
        """Cancelled by another handle than the one that submitted it."""
        assert watched.cancelled == "cancelled"

    def test_following_the_log_ends_with_the_job(self, watched: Watched) -> None:
        """All lines came, each once, and then the end."""
        assert watched.follow_ended
        assert watched.followed == list(watched.job.logs())

    def test_after_a_cancellation_an_identical_train_is_a_new_attempt(self, watched: Watched) -> None:
        """The same name with the next number."""
        assert watched.resumed is not None
        assert _base_and_attempt(watched.resumed) == (_base_and_attempt(watched.job)[0], 2)

    def test_a_new_attempt_goes_on_from_the_last_checkpoint(self, watched: Watched) -> None:
        """What the first attempt saved when it was asked to end is there for the second."""
        assert watched.resumed is not None
        before, after = watched.job.history, watched.resumed.history
        assert [row["epoch"] for row in before][:1] == [1], "the first attempt finishes an epoch"
        # A new attempt first tells the epochs before it again. Trained anew they would have taken another time.
        assert all("seconds" in row for row in before)
        assert after[: len(before)] == before

    def test_an_identical_train_attaches_to_the_running_job(self, watched: Watched) -> None:
        """Instead of a second one beside it."""
        assert watched.resumed is not None
        assert watched.attached == watched.resumed.id

    def test_force_makes_a_new_attempt_from_the_start(self, watched: Watched) -> None:
        """Although an identical job runs, and without its checkpoints."""
        assert watched.forced is not None
        assert _base_and_attempt(watched.forced) == (_base_and_attempt(watched.job)[0], 3)
        first, resumed, forced = watched.checkpoints
        assert first == resumed != forced

    def test_another_configuration_is_another_job(self, trained: Trained, watched: Watched) -> None:
        """A hash of the configuration is in the name."""
        assert (
            _base_and_attempt(trained.job)[0].rpartition("-")[2] != _base_and_attempt(watched.job)[0].rpartition("-")[2]
        )

    def test_jobs_are_listed_newest_first(self, workspace: Workspace, watched: Watched) -> None:
        """Each once, in the order in which they were submitted."""
        assert watched.resumed is not None and watched.forced is not None
        ids = [job.id for job in workspace.backend().jobs()]
        wanted = [watched.forced.id, watched.resumed.id, watched.job.id, watched.earlier.id]
        assert [id for id in ids if id in wanted] == wanted

    # -- many at once -------------------------------------------------------------------------------------------------

    def test_identical_submits_at_the_same_moment_make_one_job(
        self, workspace: Workspace, dataset: Dataset, tmp_path: Path
    ) -> None:
        """From threads of two processes; then the running job is deleted, which stops it."""
        root, threads = dataset.samples[0].path.parents[2], self.flags.submits // 2
        config = recipe(epochs=2000, seed=7).model_dump(mode="json")
        (tmp_path / "gate").mkdir()
        given: dict[str, Any] = {
            "dataset": str(root), "config": config, "threads": threads, "gate": str(tmp_path / "gate"), "processes": 2,
        }  # fmt: skip
        with workspace.start("submit", **given) as one, workspace.start("submit", **given) as two:
            answers = [process.result(self.flags.seconds) for process in (one, two)]
        ids = {id for answer in answers for id in answer["ids"]}
        assert len(ids) == 1
        assert sum(answer["accepted"] for answer in answers) == 1
        backend = workspace.backend()
        # Jobs that other processes submitted are listed here.
        jobs = [job for job in backend.jobs() if job.id.rpartition("-")[0] == ids.copy().pop().rpartition("-")[0]]
        assert [job.id for job in jobs] == list(ids)
        jobs[0].delete()
        with pytest.raises(NotFoundError):
            workspace.backend().job(jobs[0].id)
        assert jobs[0].id not in [job.id for job in workspace.backend().jobs()]

    # -- a job that fails ---------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def failed(cls, workspace: Workspace, dataset: Dataset) -> Failed:
        """A job that crashed on what it was told, and the same call once more."""
        config, backend = recipe(seed=3), workspace.backend()
        original = backend._submit

        def damage(spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
            # Nothing in medimg expects this, so the trainer dies with a traceback.
            original(spec.model_copy(update={"config": None}), pack, inputs, report)

        backend._submit = damage  # type: ignore[method-assign]
        before = {job.id for job in workspace.backend().jobs()}
        with pytest.raises(JobFailedError) as caught:
            backend.train(dataset, config)
        (job,) = [job for job in workspace.backend().jobs() if job.id not in before]
        again = workspace.backend().train(dataset, config, wait=False)
        again.cancel()
        return Failed(caught.value, job, again)

    def test_a_failed_job_says_why_and_shows_its_last_lines(self, workspace: Workspace, failed: Failed) -> None:
        """The reason that the trainer gave, and the end of its log."""
        assert workspace.backend().job(failed.job.id).status == "failed"
        lines = list(failed.job.logs())
        (reason,) = [event.message for event in _events(lines) if event.kind == "error"]
        assert reason in str(failed.error)
        # A traceback is on standard error: that belongs to the log too.
        last = [line for line in lines if parse(line) is None and line.strip()][-1:]
        assert last and "AssertionError" in last[0]
        assert str(failed.error).rstrip().endswith(last[0].strip())

    def test_a_failed_job_has_no_model(self, failed: Failed) -> None:
        """Asking for it says that the job failed."""
        with pytest.raises(BackendError, match="failed"):
            _ = failed.job.model

    def test_after_a_failure_an_identical_train_is_a_new_attempt(self, failed: Failed) -> None:
        """The failure is not final."""
        assert _base_and_attempt(failed.again) == (_base_and_attempt(failed.job)[0], 2)

    def test_a_job_that_runs_too_long_fails_and_says_so(self, workspace: Workspace, dataset: Dataset) -> None:
        """`Resources(max_hours=…)` is what stands between a mistake and the bill."""
        job = workspace.backend().train(
            dataset, recipe(epochs=2000, seed=5), resources=Resources(max_hours=1 / 3600), wait=False
        )
        until(lambda: has_ended(job), self.flags)
        assert job.status == "failed"
        assert "max_hours" in job._resource.details["reason"]

    # -- predictions --------------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def predicted(cls, workspace: Workspace, dataset: Dataset, trained: Trained) -> Job:
        """A prediction job on all images."""
        return workspace.backend().predict_batch(trained.job, dataset)

    def test_batch_predictions_are_those_of_the_model_by_sample_id(
        self, workspace: Workspace, dataset: Dataset, model: ModelFolder, predicted: Job
    ) -> None:
        """Without a split every image is in the table, and `dataset[id]` is the image."""
        table = workspace.backend().job(predicted.id).predictions
        assert set(table.ids) == {sample.id for sample in dataset.samples}
        for id in table.ids:
            wanted = model.predict(dataset[id].path).probabilities
            assert table[id].probabilities == pytest.approx(wanted, abs=TOLERANCE)

    def test_batch_predictions_of_a_split_are_of_that_split(
        self, workspace: Workspace, dataset: Dataset, model: ModelFolder, predicted: Job
    ) -> None:
        """Another split is another job; it is no training job to be deployed, and its result no model."""
        job = workspace.backend().predict_batch(model, dataset, split="test")
        assert job.id != predicted.id
        assert set(job.predictions.ids) == {sample.id for sample in dataset.of("test")}
        with pytest.raises(BackendError, match="prediction"):
            _ = job.model

    def test_an_identical_prediction_attaches(
        self, workspace: Workspace, dataset: Dataset, trained: Trained, predicted: Job
    ) -> None:
        """The same model and images are the same job."""
        assert workspace.backend().predict_batch(trained.job, dataset).id == predicted.id


def _events(lines: Any) -> list[Event]:
    return [event for event in map(parse, lines) if event is not None]


def _base_and_attempt(job: Job) -> tuple[str, int]:
    base, _, attempt = job.id.rpartition("-")
    return base, int(attempt)


def _until_first_epoch(job: Job, workspace: Workspace) -> list[str]:
    """Waits for the end of the first epoch, and returns the lines that came while the job ran."""
    lines: Sequence[str] = []

    def first_epoch() -> bool:
        nonlocal lines
        found, running = list(job.logs()), not has_ended(job)
        lines = found if running else lines
        return not running or any(event.kind == "epoch" for event in _events(found))

    until(first_epoch, workspace.flags)
    return list(lines)


def _follow(job: Job, seen: Watched) -> None:
    # An error is one way of not ending: the test says so.
    with contextlib.suppress(MedimgError):
        for line in job.logs(follow=True):
            seen.followed.append(line)
        seen.follow_ended = True
