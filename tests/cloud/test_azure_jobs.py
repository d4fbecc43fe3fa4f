"""Jobs at AzureML: what they are given, that there is one of each, how they end, and what is left of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator
from PIL import Image

from medimg.backends.azureml.backend import AzureMLBackend
from medimg.backends.azureml.compute import machine
from medimg.backends.azureml.logs import RunHistory
from medimg.backends.base import Backend
from medimg.backends.job import Job
from medimg.config import JobSpec, Resources
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack, build
from medimg.data.synthetic import write_phantoms
from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    JobFailedError,
    NotFoundError,
)
from medimg.progress import parse, silent
from medimg.testing.workspace import phantom_dataset, recipe

WORKSPACE = "jobs"
GPU, CPU = "Standard_NC4as_T4_v3", "Standard_DS3_v2"
GPU_FAMILY = "Standard NCASv3_T4 Family"


@pytest.fixture
def cloud(azure: AzureEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureEmulator]:
    """A workspace of this module's own, empty; no job is a surprise to the next test."""
    azure.make_workspace(WORKSPACE)
    azure.apply(monkeypatch, WORKSPACE)
    yield azure
    azure.clear_faults()
    azure.settings(page_size=30)
    azure.reset_workspace(WORKSPACE)


@pytest.fixture
def idle(cloud: AzureEmulator) -> AzureEmulator:
    """The same without a free machine: what a job does is not looked at here, and it fails at once."""
    cloud.quota(GPU_FAMILY, 0)
    return cloud


@pytest.fixture
def unforgiving(cloud: AzureEmulator) -> Iterator[AzureEmulator]:
    """An Azure that never makes a version again that was deleted."""
    cloud.settings(recreates_deleted=0)
    yield cloud
    cloud.settings(recreates_deleted=1)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A few images."""
    for number in range(4):
        path = tmp_path / "images" / ("NORMAL" if number % 2 else "PNEUMONIA") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    dataset = Dataset.from_folder(tmp_path / "images")
    return build(dataset, 8, facts=dataset.index())


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A file and a folder that a job needs."""
    (tmp_path / "inputs" / "model-1" / "deep").mkdir(parents=True)
    (tmp_path / "inputs" / "model-1" / "deep" / "a").write_bytes(b"a")
    (tmp_path / "inputs" / "weights-1").write_bytes(b"w")
    return tmp_path / "inputs"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A few phantoms."""
    return phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))


def _spec(pack: Pack, attempt: int = 1, *, inputs: bool = False, **resources: Any) -> JobSpec:
    given = {"weights": "weights-1", "model": "model-1"} if inputs else {}
    return JobSpec(
        base="chest-0123456789", attempt=attempt, checkpoints=f"chest-0123456789-{attempt}", data="d",
        pack=pack.path.name, samples=pack.manifest, inputs=given, code="c",
        resources=Resources(**{"instance": GPU, **resources}),
    )  # fmt: skip


def _described(backend: AzureMLBackend, id: str) -> dict[str, Any]:
    """Returns a job as Azure tells it."""
    workspace = backend.workspace
    found: dict[str, Any] = workspace.arm("GET", f"{workspace.id}/jobs/{id}", "2024-10-01")["properties"]
    return found


def _blobs() -> set[str]:
    """Returns the keys of all that is in Blob Storage."""
    return set(quick_azureml.backend().workspace.storage.list())


def _until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


# -- what a job is given ----------------------------------------------------------------------------------------------


def test_a_job_says_where_everything_is_and_names_nothing_of_ours(
    idle: AzureEmulator, pack: Pack, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pack, code, inputs and specification by their content; the repository that the notebook lies in is not told."""
    monkeypatch.chdir(Path(__file__).parent)
    backend, spec = quick_azureml.backend(tags={"cost-centre": "radiology"}), _spec(pack, inputs=True, max_hours=1.5)
    backend._submit(spec, pack.path, inputs, silent)
    job = _described(backend, spec.id)
    assert job["resources"]["instanceType"] == GPU and job["queueSettings"]["jobTier"] == "Standard"
    assert job["limits"]["timeout"] == "PT5400S"
    assert job["experimentName"] == "medimg"
    assert job["tags"] == {"medimg": "medimg", "medimg-job": spec.id, "cost-centre": "radiology"}
    assert not [name for name in job["properties"] if not name.startswith("medimg-")]
    store = "azureml://datastores/workspaceblobstore/paths/medimg/"
    assert job["inputs"]["pack"]["uri"].endswith(f"/data/medimg-pack-{pack.path.name}/versions/1")
    assert job["inputs"]["spec"]["uri"].startswith(f"{store}jobs/{spec.id}/spec-")
    assert job["outputs"]["checkpoints"]["uri"] == f"{store}checkpoints/{spec.checkpoints}/"
    assert job["outputs"]["checkpoints"]["mode"] == "ReadWriteMount"
    assert job["outputs"]["out"]["uri"] == f"{store}jobs/{spec.id}/out/"
    there = _blobs()
    for name in ("code", "inputs"):
        uri = job["inputs"][name]["uri"]
        assert [key for key in there if key.startswith(uri.removeprefix(store))]
    assert str(Path(__file__).parents[2]) not in json.dumps(job)


def test_the_second_time_nothing_is_sent(idle: AzureEmulator, pack: Pack, inputs: Path) -> None:
    """But the specification and the claim, which are the job's own."""
    quick_azureml.backend()._submit(_spec(pack, inputs=True), pack.path, inputs, silent)
    before = _blobs()
    idle.mark()
    quick_azureml.backend()._submit(_spec(pack, 2, inputs=True), pack.path, inputs, silent)
    sent = {call["path"] for call in idle.calls("PUT", r"blob\.core\.windows\.net")}
    assert {Path(path).name.partition("-")[0] for path in sent} == {"claim.json", "spec"}
    assert len(_blobs() - before) == 2
    assert not idle.calls("PUT", "/data/|/environments/")


@pytest.mark.parametrize("again", [1, 0])
def test_what_is_deleted_while_a_job_is_submitted_is_sent_again(
    unforgiving: AzureEmulator,
    idle: AzureEmulator,
    pack: Pack,
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: int,
) -> None:
    """Another process deletes what no job names, a moment before this job is there to name it."""
    unforgiving.settings(recreates_deleted=again)
    backend, other = quick_azureml.backend(), quick_azureml.backend()
    claim = backend._jobs._claim
    before: set[str] = set()

    def deleted(id: str, content: bytes) -> bool:
        if not before:
            before.update(_blobs())
            other._jobs.delete_leftovers()
            other._environments.delete_all(lambda: False)
            assert not _blobs()
        return claim(id, content)

    monkeypatch.setattr(backend._jobs, "_claim", deleted)
    spec = _spec(pack, inputs=True)
    backend._submit(spec, pack.path, inputs, silent)
    assert before and before <= _blobs()
    state, job = idle.state(WORKSPACE), _described(backend, spec.id)
    assert [":".join(job["inputs"]["pack"]["uri"].split("/")[-3::2])] == state["data"]
    assert [":".join(job["environmentId"].split("/")[-3::2])] == state["environments"]


def test_several_machines_are_refused_before_anything_is_sent(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """Several GPUs in one machine work by themselves."""
    idle.mark()
    with pytest.raises(ConfigError, match="Standard_NC64as_T4_v3"):
        quick_azureml.backend()._submit(_spec(pack, count=2), pack.path, tmp_path, silent)
    assert not idle.calls()


def test_without_an_instance_it_is_one_with_a_gpu(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """And spot asks for the tier that may be interrupted."""
    backend, spec = quick_azureml.backend(), _spec(pack, instance=None, spot=True)
    idle.quota("lowPriorityCores", 0)
    backend._submit(spec, pack.path, tmp_path, silent)
    job = _described(backend, spec.id)
    assert job["resources"]["instanceType"] == GPU and job["queueSettings"]["jobTier"] == "Spot"
    details = backend._describe("job", spec.id).details
    assert (details["instance"], details["spot"], details["count"]) == (GPU, True, 1)


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_not_there_is_made_without_a_machine(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """It costs nothing while no job runs; the next job finds it; cleanup deletes it."""
    backend, spec = quick_azureml.backend(compute="ours"), _spec(pack, spot=True)
    idle.quota("lowPriorityCores", 100)
    backend._submit(spec, pack.path, tmp_path, silent)
    workspace = backend.workspace
    cluster = workspace.arm("GET", f"{workspace.id}/computes/ours", "2024-10-01")["properties"]["properties"]
    assert cluster["vmSize"] == GPU and cluster["vmPriority"] == "LowPriority"
    assert cluster["scaleSettings"]["minNodeCount"] == 0 and cluster["scaleSettings"]["maxNodeCount"] == 1
    job = _described(backend, spec.id)
    assert job["computeId"].endswith("/computes/ours") and "instanceType" not in job["resources"]
    idle.mark()
    found = machine(workspace, "ours", Resources())
    assert (found.instance, found.spot) == (GPU, True)
    assert not idle.calls("PUT")
    backend._jobs.delete(spec.id)
    backend._jobs.delete_leftovers()
    assert not idle.state(WORKSPACE).get("computes")


def test_a_cluster_of_other_machines_is_refused_with_both_names(idle: AzureEmulator) -> None:
    """Before anything is uploaded; capital letters make no other machine."""
    workspace = quick_azureml.backend().workspace
    with pytest.raises(ConfigError, match=r"no compute 'small'.*resources=medimg\.Resources\(instance="):
        machine(workspace, "small", Resources())
    machine(workspace, "small", Resources(instance=CPU))
    assert machine(workspace, "small", Resources(instance=CPU.upper())).instance == CPU
    with pytest.raises(ConfigError, match=f"{CPU}.*{GPU}"):
        machine(workspace, "small", Resources(instance=GPU))
    with pytest.raises(ConfigError, match=r"dedicated.*spot=True"):
        machine(workspace, "small", Resources(spot=True))


def test_a_compute_of_another_kind_is_refused(idle: AzureEmulator) -> None:
    """A notebook's machine runs on when the job has ended."""
    workspace = quick_azureml.backend().workspace
    instance = {"computeType": "ComputeInstance", "properties": {"vmSize": CPU}}
    body = {"location": workspace.location, "properties": instance}
    workspace.arm("PUT", f"{workspace.id}/computes/notebook", "2024-10-01", body, wait=True)
    with pytest.raises(ConfigError, match="computeinstance"):
        machine(workspace, "notebook", Resources())


# -- its log ----------------------------------------------------------------------------------------------------------


def test_a_log_is_whole_lines_from_any_position(idle: AzureEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is being written comes when it is finished, or the job has ended; letters may be of several bytes."""
    workspace = quick_azureml.backend().workspace
    runs = RunHistory(workspace)
    run: dict[str, Any] = {"status": "Preparing"}
    monkeypatch.setattr(runs, "details", lambda _: run)
    assert runs.log("x", 0) == ([], 0)
    run |= {"status": "Running", "logFiles": {"user_logs/std_log.txt": "jobs/x/log"}}
    text = "eins\r\n\nzwölf\nhalb fertig…".encode()
    for end in range(1, len(text) + 1):
        workspace.storage.put("jobs/x/log", text[:end])
        lines, position = runs.log("x", 0)
        assert text[:position].endswith(b"\n") or not position
        assert lines == [line.rstrip() for line in text[:position].decode().splitlines()]
    assert (lines, position) == (["eins", "", "zwölf"], 14)
    assert runs.log("x", 6) == (["", "zwölf"], 14)
    assert runs.log("x", 14) == ([], 14)
    run["status"] = "Failed"
    assert runs.log("x", 14) == (["halb fertig…"], len(text))
    assert runs.log("x", len(text)) == ([], len(text))


# -- one of each ------------------------------------------------------------------------------------------------------


def test_of_twenty_that_submit_at_once_one_does(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """And the others find its job, also while it is about to be there."""
    spec = _spec(pack)
    backends = [quick_azureml.backend() for _ in range(4)]
    barrier = threading.Barrier(20)
    idle.mark()

    def submit(number: int) -> str:
        backend = backends[number % len(backends)]
        barrier.wait()
        try:
            backend._submit(spec, pack.path, tmp_path, silent)
        except AlreadyExistsError:
            backend._describe("job", spec.id)
            return "found"
        return "made"

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(submit, range(20))) == ["found"] * 19 + ["made"]
    assert len(idle.calls("PUT", f"/jobs/{spec.id}$")) == 1
    assert idle.state(WORKSPACE)["jobs"] == [spec.id]


@pytest.mark.parametrize("status", [0, 503])
def test_an_answer_that_was_lost_makes_no_second_job_and_no_error(
    idle: AzureEmulator, pack: Pack, tmp_path: Path, status: int
) -> None:
    """The request is sent again, and finds the first one's job."""
    spec = _spec(pack)
    idle.fault(method="PUT", path=f"/jobs/{spec.id}$", status=status, after=True)
    quick_azureml.backend()._submit(spec, pack.path, tmp_path, silent)
    assert idle.state(WORKSPACE)["jobs"] == [spec.id]
    with pytest.raises(AlreadyExistsError):
        quick_azureml.backend()._submit(spec, pack.path, tmp_path, silent)


def test_a_job_that_azure_refuses_leaves_nothing_of_it(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """So that it can be submitted again at once."""
    spec, backend = _spec(pack), quick_azureml.backend()
    idle.fault(method="PUT", path="/jobs/", status=403, code="AuthorizationFailed", message="no")
    with pytest.raises(AccessError, match="medimg azure bootstrap"):
        backend._submit(spec, pack.path, tmp_path, silent)
    assert not [key for key in _blobs() if key.startswith("jobs/")]
    with pytest.raises(NotFoundError):
        backend._describe("job", spec.id)
    backend._submit(spec, pack.path, tmp_path, silent)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/jobs/chest-[^/]+$", "Conflict"),
        (r"blob\.core.*/packs/", "Conflict"),
        (r"blob\.core.*claim\.json", "was not submitted"),
        ("/data/medimg-pack", "Conflict"),
    ],
)
def test_what_is_refused_as_in_conflict_is_not_called_a_job_that_exists(
    idle: AzureEmulator, pack: Pack, tmp_path: Path, path: str, says: str
) -> None:
    """Of a lock, or storage that cannot be changed: there is no job, and no handle of one."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    idle.fault(method="PUT", path=path, status=409, code="Conflict", message="Conflict.", times=None)
    with pytest.raises(BackendError, match=says) as error:
        backend._submit(spec, pack.path, tmp_path, silent)
    assert not isinstance(error.value, AlreadyExistsError)
    idle.clear_faults()
    idle.quota(GPU_FAMILY, 0)
    backend._submit(spec, pack.path, tmp_path, silent)
    assert idle.state(WORKSPACE)["jobs"] == [spec.id]


def test_a_refusal_once_the_job_is_there_is_a_warning(
    idle: AzureEmulator, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is billed, and its handle is needed."""
    backend, spec, told = quick_azureml.backend(), _spec(pack), []
    create = backend._jobs._create

    def locked(id: str, body: dict[str, Any]) -> bool:
        made = create(id, body)
        idle.fault(path="/environments/", status=409, code="ScopeLocked", message="locked", times=None)
        return made

    monkeypatch.setattr(backend._jobs, "_create", locked)
    backend._submit(spec, pack.path, tmp_path, told.append)
    assert ["locked" in event.message for event in told if event.kind == "warning"] == [True]
    assert idle.state(WORKSPACE)["jobs"] == [spec.id]


def test_a_process_that_dies_before_its_job_is_there_blocks_nobody_for_long(
    idle: AzureEmulator, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two minutes the job is about to be there; then the next one takes it over."""
    spec, backend = _spec(pack), quick_azureml.backend()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backend._jobs, "_find", die)
        backend._submit(spec, pack.path, tmp_path, silent)
    other = quick_azureml.backend()
    with pytest.raises(AlreadyExistsError):
        other._submit(spec, pack.path, tmp_path, silent)
    assert other._describe("job", spec.id).status == "queued"
    assert other._log("job", spec.id, 0) == ([], 0)
    assert other._list("job") == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 121)
    with pytest.raises(NotFoundError, match="ended"):
        other._describe("job", spec.id)
    other._submit(spec, pack.path, tmp_path, silent)
    assert idle.state(WORKSPACE)["jobs"] == [spec.id]


def test_another_projects_jobs_are_not_ours(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """Two prefixes in one workspace."""
    spec = _spec(pack)
    quick_azureml.backend(prefix="theirs")._submit(spec, pack.path, tmp_path, silent)
    ours = quick_azureml.backend()
    assert ours.jobs() == ()
    for id in (spec.id, "chest-0123456789-2", "no id"):
        with pytest.raises(NotFoundError):
            ours.job(id)


def test_a_list_has_all_its_pages(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """And what has ended is asked for once."""
    backend = quick_azureml.backend()
    for attempt in range(1, 6):
        backend._submit(_spec(pack, attempt), pack.path, tmp_path, silent)
    _until(lambda: all(job.status == "failed" for job in backend._list("job")))
    idle.settings(page_size=2)
    idle.mark()
    assert len(backend._list("job")) == 5
    assert len(idle.calls("GET", "/jobs")) == 3
    assert not idle.calls("GET", "/history/")


def test_an_end_that_is_told_a_moment_later_is_asked_for_again(
    idle: AzureEmulator, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the job cost depends on it."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    backend._submit(spec, pack.path, tmp_path, silent)
    runs = backend._jobs._runs
    _until(lambda: runs.details(spec.id)["status"] == "Failed")
    run = {"status": "Failed", "startTimeUtc": "2026-01-01T00:00:00Z", "endTimeUtc": None}
    monkeypatch.setattr(runs, "details", lambda _: run)
    assert backend._describe("job", spec.id).details["billable_seconds"] is None
    run["endTimeUtc"] = "2026-01-01T00:01:00Z"
    assert backend._describe("job", spec.id).details["billable_seconds"] == 60.0
    run["endTimeUtc"] = None
    assert backend._describe("job", spec.id).details["billable_seconds"] == 60.0


# -- its end ----------------------------------------------------------------------------------------------------------


def test_no_quota_says_what_to_do(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """Serverless compute is refused after the job was taken; a cluster when it is made."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    backend._submit(spec, pack.path, tmp_path, silent)
    with pytest.raises(JobFailedError, match=r"(?s)spot=True.*ClusterCoreQuotaReached"):
        Job(backend, spec.id).wait()
    details = backend._describe("job", spec.id).details
    assert details["billable_seconds"] is None, "no machine was there"


def test_deleting_leaves_what_others_need_and_then_nothing(idle: AzureEmulator, pack: Pack, inputs: Path) -> None:
    """The pack and inputs are shared by the attempts."""
    backend = quick_azureml.backend()
    for attempt in (1, 2):
        backend._submit(_spec(pack, attempt, inputs=True), pack.path, inputs, silent)
    shared = {key for key in _blobs() if not key.startswith("jobs/")}
    backend.job("chest-0123456789-1").delete()
    assert {key for key in _blobs() if not key.startswith("jobs/")} == shared
    assert backend.job("chest-0123456789-2")
    backend.job("chest-0123456789-2").delete()
    left = idle.state(WORKSPACE)
    assert {key.split("/")[0] for key in _blobs()} == {"code"}
    assert not left.get("jobs") and not left.get("data")
    backend._jobs.delete_leftovers()
    assert not _blobs()


@pytest.mark.parametrize("path", ["/jobs/[^/]+$", "/data/", "blob.core"])
def test_a_delete_whose_answer_is_lost_is_done(idle: AzureEmulator, pack: Pack, tmp_path: Path, path: str) -> None:
    """The second request says that there is nothing to delete."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    backend._submit(spec, pack.path, tmp_path, silent)
    idle.fault(method="DELETE", path=path, status=503, after=True)
    backend.job(spec.id).delete()
    assert not idle.state(WORKSPACE).get("jobs")


def test_the_same_data_is_given_again_where_no_version_is_made_twice(
    unforgiving: AzureEmulator, idle: AzureEmulator, pack: Pack, tmp_path: Path
) -> None:
    """Its pack and environment have other versions, which the next job finds."""
    backend, seen = quick_azureml.backend(), set()
    for _ in range(3):
        backend._submit(_spec(pack), pack.path, tmp_path, silent)
        idle.mark()
        quick_azureml.backend()._submit(_spec(pack, 2), pack.path, tmp_path, silent)
        assert not idle.calls("PUT", "/data/|/environments/")
        first, second = (_described(backend, f"chest-0123456789-{attempt}") for attempt in (1, 2))
        assert first["inputs"]["pack"] == second["inputs"]["pack"]
        assert first["environmentId"] == second["environmentId"]
        seen.add((first["inputs"]["pack"]["uri"], first["environmentId"]))
        backend.cleanup()
        state = idle.state(WORKSPACE)
        assert not state.get("data") and not state.get("environments")
    assert len({uri for uri, _ in seen}) == len({id for _, id in seen}) == 3


def test_data_that_azure_does_not_delete_is_archived(idle: AzureEmulator, pack: Pack, tmp_path: Path) -> None:
    """Neither the job's end nor cleanup fails for it; the next job has it back."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    workspace = backend.workspace
    idle.fault(method="DELETE", path="/data/", status=405, code="MethodNotAllowed", message="no", times=None)
    for _ in range(2):
        backend._submit(spec, pack.path, tmp_path, silent)
        id = _described(backend, spec.id)["inputs"]["pack"]["uri"].removeprefix("azureml:")
        assert not workspace.arm("GET", id, "2024-10-01")["properties"]["isArchived"]
        backend.job(spec.id).delete()
        archived = workspace.arm("GET", id, "2024-10-01")["properties"]
        assert archived["isArchived"] and archived["tags"] == {"medimg": "medimg"}
        backend.cleanup()
    assert id.endswith("/versions/1")
    idle.clear_faults()
    idle.quota(GPU_FAMILY, 0)
    backend._submit(spec, pack.path, tmp_path, silent)
    idle.fault(method="DELETE", path="/data/", status=403, code="AuthorizationFailed", times=None)
    with pytest.raises(AccessError):
        backend.job(spec.id).delete()


def test_no_environment_of_ours_is_left_by_a_cleanup_of_everything(
    idle: AzureEmulator, pack: Pack, tmp_path: Path
) -> None:
    """While nothing of ours may still need it; other people's stay, and another project's."""
    backend, spec = quick_azureml.backend(), _spec(pack)
    workspace, theirs = backend.workspace, quick_azureml.backend(prefix="theirs")
    theirs._environments.serving()
    properties = {"image": "python:3.11"}
    for name in ("medimg-serve", "medimg-serve-0123456789ab"):
        workspace.arm("PUT", f"{workspace.id}/environments/{name}/versions/1", "2024-10-01", {"properties": properties})
    before = idle.state(WORKSPACE)["environments"]
    assert len(before) == 3

    def ours() -> set[str]:
        return {name.rpartition("-")[0] for name in set(idle.state(WORKSPACE)["environments"]) - set(before)}

    backend._submit(spec, pack.path, tmp_path, silent)
    backend._environments.serving()
    backend.cleanup(kinds=["endpoint"])
    idle.fault(method="DELETE", path="/jobs/", status=403, code="AuthorizationFailed", times=None)
    with pytest.raises(BackendError, match=spec.id):
        backend.cleanup()
    idle.clear_faults()
    idle.quota(GPU_FAMILY, 0)
    backend.cleanup(kinds=["job"])
    assert ours() == {"medimg-train-gpu", "medimg-serve"}
    backend.cleanup()
    assert sorted(idle.state(WORKSPACE)["environments"]) == sorted(before)
    backend._submit(spec, pack.path, tmp_path, silent)
    assert ours() == {"medimg-train-gpu"}


# -- a life -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_jobs_life(cloud: AzureEmulator, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log and metrics while it runs, its times, its result; another home finds it; deleted, nothing is left."""
    backend = quick_azureml.backend()
    epochs = 200  # an epoch takes hundredths of a second, and to ask for its log as long
    job = backend.train(dataset, recipe(epochs=epochs), name="life", wait=False)
    _until(lambda: job.history)
    assert job.status == "running" and len(job.history) < epochs, "its log came only when it had ended"
    job.wait()
    assert [row["epoch"] for row in job.history] == list(range(1, epochs + 1))
    assert job.model.history[-1]["val_loss"] == pytest.approx(job.history[-1]["val_loss"])
    assert {"packing", "uploading", "provisioning", "fitting"} <= set(job.timings)
    details = job._resource.details
    assert 0 < details["billable_seconds"] == details["training_seconds"] < 600
    assert details["workload"]["epochs"] == epochs
    assert job.url.startswith(f"https://ml.azure.com/runs/{job.id}")
    told = cloud.metrics(job.id)
    assert "val_loss" in json.dumps(told), "MLflow has no metrics of it"
    digest = job.model.digest
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "another-home"))
    again = quick_azureml.backend()
    assert [found.id for found in again.jobs()] == [job.id]
    assert again.job(job.id).model.digest == digest
    again.job(job.id).delete()
    again.cleanup(kinds=["job"])
    left = cloud.state(WORKSPACE)
    assert not left.get("jobs") and not left.get("data") and not left.get("blobs")


@pytest.mark.slow
def test_the_same_data_trains_again_after_everything_was_deleted(unforgiving: AzureEmulator, dataset: Dataset) -> None:
    """On an Azure that makes no version twice."""
    backend = quick_azureml.backend()
    for _ in range(2):
        job = backend.train(dataset, recipe(epochs=1), name="again")
        assert job.model.history
        job.delete()
        backend.cleanup()
        state = unforgiving.state(WORKSPACE)
        assert not any(state.get(kind) for kind in ("jobs", "data", "environments"))


@pytest.mark.slow
def test_a_cancelled_job_keeps_its_checkpoint_and_the_next_goes_on(cloud: AzureEmulator, dataset: Dataset) -> None:
    """SIGTERM reaches the trainer, and what it saves then reaches Blob Storage."""
    backend = quick_azureml.backend()
    job = backend.train(dataset, recipe(epochs=2000), wait=False)
    _until(lambda: len(job.history) > 3)
    job.cancel()
    job.cancel()
    _until(lambda: job.status == "cancelled")
    with pytest.raises(JobFailedError, match="cancelled"):
        job.wait()
    names = {key.rpartition("/")[2] for key in _blobs() if key.startswith("checkpoints/")}
    assert {"arrays.npz", "hashes.json", "state.json"} <= names
    again = backend.train(dataset, recipe(epochs=2000), wait=False)
    assert again.id.endswith("-2")
    _until(lambda: again.history)
    assert again.history[: len(job.history)] == job.history, "it began anew"
    again.delete()
    assert again.id not in cloud.state(WORKSPACE)["jobs"]


@pytest.mark.slow
def test_a_job_whose_machine_is_taken_goes_on_from_its_checkpoint(
    cloud: AzureEmulator, dataset: Dataset, backend_local: Backend
) -> None:
    """The history has every epoch once, none was computed twice, and the result is that of an undisturbed run."""
    backend = quick_azureml.backend()
    config = recipe(epochs=200)
    job = backend.train(dataset, config, resources=Resources(spot=True), wait=False)
    _until(lambda: len(job.history) >= 10)
    before = job.history
    cloud.preempt(job.id)
    job.wait()
    assert [row["epoch"] for row in job.history] == list(range(1, 201))
    assert job.history[: len(before)] == before, "what was done before the interruption was done again"
    assert sum(1 for event in map(parse, job.logs()) if event and event.stage == "importing" and not event.message) == 2
    straight = backend_local.train(dataset, config)
    assert job.model.history[-1]["val_loss"] == pytest.approx(straight.model.history[-1]["val_loss"], abs=1e-6)


@pytest.fixture
def backend_local() -> Backend:
    """This machine."""
    import medimg

    return medimg.backend("local")


@pytest.mark.slow
def test_a_job_that_fails_says_why(cloud: AzureEmulator, dataset: Dataset) -> None:
    """In its own words, with the end of its log; and that it ran too long."""
    backend = quick_azureml.backend()
    config = recipe(epochs=2)
    job = backend.train(dataset, config, wait=False, resources=Resources(max_hours=2 / 3600))
    with pytest.raises(JobFailedError, match="ran longer"):
        job.wait()
    storage = backend.workspace.storage
    for key in storage.list("packs/"):
        if key.endswith("pack.json"):
            storage.put(key, b"{}")
    job = backend.train(dataset, config, wait=False)
    with pytest.raises(JobFailedError, match=r"-2 failed: .*pack\.json is missing or damaged"):
        job.wait()
    assert "exited with status code 1" in job._resource.details["reason"]
