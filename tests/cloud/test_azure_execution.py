"""The emulator of Azure executes jobs and deployments, asked for with the unmodified SDK."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("azure.ai.ml", reason="needs Azure's SDK: pip install 'medimg[azureml]'")

import requests
from azure.ai.ml import Input, Output
from azure.ai.ml.entities import OnlineRequestSettings
from azure.core.exceptions import HttpResponseError
from azure_workspace import ARM, Workspace, until

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

WORKSPACE = "execution"


@pytest.fixture
def workspace(subscription: AzureEmulator, tmp_path: Path) -> Workspace:
    """A workspace with nothing in it."""
    return Workspace(subscription, WORKSPACE, tmp_path)


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_job_reads_its_inputs_writes_its_outputs_and_tells_of_itself(workspace: Workspace) -> None:
    """In a Python that has what the environment names, and not the checkout."""
    (workspace.folder / "data").mkdir()
    (workspace.folder / "data" / "image.txt").write_text("an image")
    script = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient

data, out, mount, lines = sys.argv[1:]
for number in range(int(lines)):
    print("line", number)
print(Path(data, "image.txt").read_text(), os.environ["AZURE_ML_OUTPUT_out"] == out, os.environ["GIVEN"])
for name in ("medimg", "tensorflow", "pytest"):
    try:
        __import__(name)
        print("found", name)
    except ImportError:
        pass
Path(out, "model").mkdir()
Path(out, "model", "weights").write_text("weights")
Path(mount, "state").write_text("state")
Path("outputs", "metrics.json").write_text("{}")
tracking, run = MlflowClient(), os.environ["MLFLOW_RUN_ID"]
tracking.log_param(run, "rate", 0.1)
tracking.log_metric(run, "loss", 0.5, step=2)
tracking.set_terminated(run)
"""
    own = "azureml://datastores/workspaceblobstore/paths/mine/here/"
    workspace.submit(
        "job", script, "${{inputs.data}} ${{outputs.out}} ${{outputs.mount}} ${{inputs.lines}}",
        ("azureml-mlflow>=1.62,<2", "mlflow-skinny<=3.15"),
        inputs={
            "data": Input(type="uri_folder", path=str(workspace.folder / "data"), mode="download"), "lines": 2,
        },
        outputs={"out": Output(mode="upload", path=own), "mount": Output(mode="rw_mount")},
        environment_variables={"GIVEN": "given", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert workspace.end("job") == "Completed", workspace.log("job")
    lines = workspace.log("job").splitlines()
    assert lines[:3] == ["line 0", "line 1", "an image True given"]
    assert not any(line.startswith("found") for line in lines)
    assert workspace.files("mine/here/") == ["model/weights"]
    assert workspace.files("azureml/job/") == ["mount/state"]
    assert "metrics.json" in workspace.files("ExperimentRun/dcid.job/outputs/", "workspaceartifactstore")
    (loss,) = workspace.azure.metrics("job")["loss"]
    assert (loss["value"], loss["step"]) == (0.5, 2)
    told = workspace.details("job")
    assert told["createdUtc"] < told["startTimeUtc"] < told["endTimeUtc"] and told["error"] is None


def test_a_log_can_be_read_while_the_job_runs(workspace: Workspace) -> None:
    """A part of it, too."""
    workspace.submit("job", "import time; print('begun', flush=True); time.sleep(60)")
    until(lambda: workspace.log("job"), lambda text: text == "begun\n")
    url = workspace.details("job")["logFiles"]["user_logs/std_log.txt"]
    assert requests.get(url, headers={"Range": "bytes=2-"}, timeout=30).text == "gun\n"


def test_a_cancelled_job_is_asked_to_end_and_is_canceled(workspace: Workspace) -> None:
    """And what it mounted is kept."""
    script = """
import signal, sys, time
from pathlib import Path

def end(*_):
    print("asked to end")
    Path(sys.argv[1], "last").write_text("last")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
time.sleep(60)
"""
    workspace.submit("job", script, "${{outputs.mount}}", outputs={"mount": Output(mode="rw_mount")})
    until(lambda: workspace.log("job"), lambda text: "begun" in text)
    workspace.ml.jobs.begin_cancel("job").result()
    assert workspace.status("job") == "Canceled"
    assert "asked to end" in workspace.log("job") and workspace.files("azureml/job/") == ["mount/last"]
    with pytest.raises(HttpResponseError, match="terminal state"):
        workspace.ml.jobs.begin_cancel("job")


def test_a_preempted_job_begins_anew_with_what_was_mounted(workspace: Workspace) -> None:
    """Nothing else is left of the first machine."""
    script = """
import sys, time
from pathlib import Path

found = sorted(path.name for path in Path(sys.argv[1]).iterdir())
print("found", found, Path("here").exists(), flush=True)
Path("here").touch()
Path(sys.argv[1], "checkpoint").write_text("1")
if not found:
    time.sleep(60)
"""
    workspace.submit(
        "job", script, "${{outputs.mount}}", outputs={"mount": Output(mode="rw_mount")},
        queue_settings={"job_tier": "Spot"},
    )  # fmt: skip
    until(lambda: workspace.files("azureml/job/"), lambda files: files == ["mount/checkpoint"])
    workspace.azure.preempt("job")
    assert workspace.end("job") == "Completed"
    assert workspace.log("job").splitlines() == ["found [] False", "found ['checkpoint'] False"]


def test_a_job_that_fails_tells_how(workspace: Workspace) -> None:
    """Its status, and the last line."""
    workspace.submit("job", "raise SystemExit('no more disk')")
    assert workspace.end("job") == "Failed"
    error = workspace.details("job")["error"]["error"]
    assert error["code"] == "UserError" and "status code 1" in error["message"] and "no more disk" in error["message"]


def test_a_job_that_takes_longer_than_its_limit_is_canceled(workspace: Workspace) -> None:
    """As the service's reference says of the limit."""
    workspace.submit("job", "import time; time.sleep(60)", timeout=1)
    assert workspace.end("job") == "Canceled"


def test_an_environment_that_cannot_be_built_fails_the_job(workspace: Workspace) -> None:
    """And the log of the build tells why."""
    workspace.submit("job", "", packages=("numpy==1.0.1",))
    assert workspace.end("job") == "Failed"
    assert "ImageBuildFailure" in workspace.details("job")["error"]["error"]["message"]
    assert "No matching distribution found for numpy==1.0.1" in workspace.log(
        "job", "azureml-logs/20_image_build_log.txt"
    )


@pytest.mark.parametrize(("family", "spot"), [("Standard NCASv3_T4 Family", False), ("lowPriorityCores", True)])
def test_a_job_without_cores_fails(workspace: Workspace, family: str, spot: bool) -> None:
    """Machines that may be taken away have a quota of their own."""
    workspace.azure.quota(family, 0)
    for name, tier in (("job", spot), ("other", not spot)):
        workspace.submit(name, "", queue_settings={"job_tier": "Spot"} if tier else {"job_tier": "Standard"})
    assert (workspace.end("job"), workspace.end("other")) == ("Failed", "Completed")
    assert "ClusterCoreQuotaReached" in workspace.details("job")["error"]["error"]["message"]


def test_a_job_may_be_sent_twice_but_not_become_another(workspace: Workspace) -> None:
    """What describes it may change."""
    workspace.submit("job", "", tags={"mine": "1"})
    body = workspace.arm("GET", f"{workspace.id}/jobs/job").json()["properties"]
    sent = {
        "jobType": "Command", "command": body["command"], "environmentId": body["environmentId"],
        "codeId": body["codeId"], "experimentName": "tests", "tags": {"mine": "2"},
        "resources": {"instanceType": "Standard_NC4as_T4_v3"}, "inputs": {}, "outputs": {},
    }  # fmt: skip
    for name in ("fresh", "fresh"):
        assert workspace.arm("PUT", f"{workspace.id}/jobs/{name}", {"properties": sent}).ok
    refused = workspace.arm("PUT", f"{workspace.id}/jobs/fresh", {"properties": {**sent, "command": "true"}})
    assert refused.status_code == 400 and "already exists" in refused.text and "command" in refused.text
    changed = workspace.arm("PUT", f"{workspace.id}/jobs/fresh", {"properties": {**sent, "tags": {"new": "1"}}})
    assert changed.json()["properties"]["tags"] == {"new": "1"}
    token = workspace.login.get_token(f"{ARM}/.default").token
    listed = requests.get(
        f"{ARM}{workspace.id}/jobs?api-version=2024-10-01&tag=mine", headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )  # fmt: skip
    assert [job["name"] for job in listed.json()["value"]] == ["job"]


def test_a_deleted_job_leaves_its_named_outputs_only(workspace: Workspace) -> None:
    """And one that runs cannot be deleted."""
    workspace.submit("job", "import sys; open(sys.argv[1] + '/a', 'w')", "${{outputs.out}}", outputs={"out": Output()})
    workspace.submit("other", "import time; time.sleep(60)")
    assert workspace.end("job") == "Completed"
    workspace.ml.jobs.begin_delete("job").result()
    assert workspace.azure.state(WORKSPACE)["jobs"] == ["other"]
    assert workspace.files("ExperimentRun/dcid.job", "workspaceartifactstore") == []
    assert workspace.files("azureml/job/") == ["out/a"]
    with pytest.raises(HttpResponseError, match="not in a terminal state"):
        workspace.ml.jobs.begin_delete("other")


@pytest.mark.parametrize("wrong", [
    {"environmentId": "azureml:none:1"}, {"codeId": "azureml:none:1"}, {"computeId": "none"},
    {"command": "echo ${{inputs.none}}"}, {"inputs": {"a": {"jobInputType": "uri_folder", "uri": "azureml:none:1"}}},
], ids=lambda wrong: next(iter(wrong)))  # fmt: skip
def test_a_job_of_what_is_not_there_is_refused(workspace: Workspace, wrong: dict[str, Any]) -> None:
    """At once."""
    properties = {"jobType": "Command", "command": "true", "environmentId": workspace.environment(), **wrong}
    answer = workspace.arm("PUT", f"{workspace.id}/jobs/job", {"properties": properties})
    assert answer.status_code in (400, 404) and answer.json()["error"]["code"] == "UserError"
    assert "jobs" not in workspace.azure.state(WORKSPACE)


# -- endpoints ---------------------------------------------------------------------------------------------------------


def test_an_endpoint_shares_its_traffic_between_deployments(workspace: Workspace) -> None:
    """Raw bytes reach the script; what it refuses comes as 424, and who may not ask is told so."""
    workspace.serve("shared-traffic")
    with ThreadPoolExecutor() as pool:  # one at a time: the service does not do two things at once
        workspace.deploy("shared-traffic", "blue")
        assert workspace.ask("shared-traffic", b"12345").status_code == 404  # no traffic yet
        assert workspace.ask("shared-traffic", b"12345", to="blue").json() == {"bytes": 5, "by": "blue"}
        workspace.deploy("shared-traffic", "green")
        workspace.route("shared-traffic", blue=50, green=50)
        answers = list(pool.map(lambda _: workspace.ask("shared-traffic", b"\x89PNG\r\n"), range(20)))
    # A deployment takes two requests at a time by default.
    assert {answer.status_code for answer in answers} <= {200, 429}
    good = [answer for answer in answers if answer.ok]
    assert {answer.json()["by"] for answer in good} <= {"blue", "green"} and good[0].json()["bytes"] == 6
    assert all(answer.headers["azureml-model-deployment"] == answer.json()["by"] for answer in good)
    refused = workspace.ask("shared-traffic", b"no image")
    assert refused.status_code == 424 and refused.json() == {"error": "no image"}
    assert refused.headers["ms-azureml-model-error-statuscode"] == "422"
    assert refused.headers["ms-azureml-model-error-reason"] == "model_error"
    assert workspace.ask("shared-traffic", b"", key="wrong").status_code == 401
    assert workspace.ask("shared-traffic", bytes(10 * 1024 * 1024 + 1)).status_code == 413
    with pytest.raises(HttpResponseError, match="has traffic"):
        workspace.ml.online_deployments.begin_delete("blue", "shared-traffic").result()


def test_a_deployment_answers_what_it_was_asked_before_it_ends(workspace: Workspace) -> None:
    """And in time, or the request ends without it."""
    workspace.serve("draining")
    workspace.deploy(
        "draining", "blue",
        request_settings=OnlineRequestSettings(request_timeout_ms=1500, max_concurrent_requests_per_instance=2),
    )  # fmt: skip
    assert workspace.ask("draining", b"sleep 2", to="blue").status_code == 408
    with ThreadPoolExecutor() as pool:
        key = workspace.ml.online_endpoints.get_keys("draining").primary_key
        asked = pool.submit(workspace.ask, "draining", b"sleep 1", key, "blue")
        until(
            lambda: workspace.ml.online_deployments.get_logs("blue", "draining", 100),
            lambda log: log.count("sleeping") == 2,
        )
        workspace.ml.online_endpoints.begin_delete("draining").result()
        assert asked.result().json()["bytes"] == 7
    assert not {"endpoints", "deployments", "processes"} & set(workspace.azure.state(WORKSPACE))


def test_a_deployment_that_cannot_begin_fails_and_its_log_tells_why(workspace: Workspace) -> None:
    """What it was to replace goes on."""
    workspace.serve("broken-one")
    with pytest.raises(HttpResponseError, match="User container has crashed or terminated") as raised:
        workspace.deploy("broken-one", "blue", variables={"BROKEN": "1"})
    assert raised.value.error is not None and raised.value.error.code == "ResourceNotReady"
    log = workspace.ml.online_deployments.get_logs("blue", "broken-one", 200)
    assert "the model: ['weights']" in log and "RuntimeError: the model is broken" in log
    told = workspace.arm("GET", f"{workspace.id}/onlineEndpoints/broken-one/deployments/blue").json()["properties"]
    assert told["provisioningState"] == "Failed"
    operation = told["properties"]["AzureAsyncOperationUri"].removeprefix(ARM).partition("?")[0]
    assert workspace.arm("GET", operation).json()["error"]["code"] == "ResourceNotReady"


def test_endpoints_are_refused_as_the_service_does(workspace: Workspace) -> None:
    """Names that are taken, traffic to nothing, two operations at once."""
    path = f"{workspace.id}/onlineEndpoints/taken-name"
    body = {"location": "westeurope", "properties": {"authMode": "Key"}}
    workspace.azure.settings(operation_seconds=1.0)
    try:
        assert workspace.arm("PUT", path, body).status_code == 201
        assert workspace.arm("PUT", path, body).status_code == 409
        assert workspace.arm("DELETE", path).status_code == 409
    finally:
        workspace.azure.settings(operation_seconds=0.05)
    until(lambda: workspace.arm("GET", path).json()["properties"]["provisioningState"], "Succeeded".__eq__)
    elsewhere = path.replace(f"/{WORKSPACE}/", "/execution-two/")
    workspace.azure.make_workspace("execution-two")
    for wrong in (
        (elsewhere, body),
        (path.replace("taken-name", "no"), body),
        (path, {**body, "properties": {"authMode": "Key", "traffic": {"blue": 100}}}),
        (path, {**body, "location": "northeurope"}),
    ):
        answer = workspace.arm("PUT", *wrong)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["message"] == "The request is invalid.", wrong
        assert "errors" in json.loads(json.loads(error["details"][0]["message"])["error"]["message"]), wrong


def test_an_endpoint_of_logins_takes_no_key(workspace: Workspace) -> None:
    """Only a token for Azure Machine Learning."""
    workspace.serve("with-logins", auth="aad_token")
    token = workspace.login.get_token("https://ml.azure.com/.default").token
    assert workspace.ask("with-logins", b"", token).status_code == 404  # let in, and nothing to answer
    wrong = workspace.login.get_token(f"{ARM}/.default").token
    assert workspace.ask("with-logins", b"", wrong).status_code == 401
    assert workspace.arm("POST", f"{workspace.id}/onlineEndpoints/with-logins/listKeys").status_code == 400
