"""What Azure's unmodified libraries raise becomes an error of medimg that says what to do, and only what fits."""

from __future__ import annotations

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator

from medimg.backends.azureml.errors import explain_failure, translated
from medimg.backends.azureml.workspace import Workspace
from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    MedimgError,
    NotFoundError,
    QuotaError,
    UnreachableError,
)

pytestmark = pytest.mark.usefixtures("subscription")

WORKSPACE = "errors"


def _told(error: pytest.ExceptionInfo[MedimgError]) -> str:
    text = str(error.value)
    assert text.count("\n") <= 1 and len(text) < 900, f"too long to read: {text}"
    return text


@pytest.mark.parametrize(
    ("status", "code", "message", "expected", "says"),
    [
        (401, "InvalidAuthenticationToken", "The access token is invalid.", AccessError, "az login"),
        (403, "AuthorizationFailed", "The client 'x' does not have authorization to perform action "
         "'Microsoft.MachineLearningServices/workspaces/jobs/read' over scope 'y'.", AccessError,
         "may not do Microsoft.MachineLearningServices/workspaces/jobs/read"),
        (409, "MissingSubscriptionRegistration", "The subscription is not registered to use namespace "
         "'Microsoft.MachineLearningServices'.", AccessError, "az provider register --namespace Microsoft.Mach"),
        (400, "ClusterCoreQuotaReached", "Operation results in exceeding quota limits.", QuotaError, "spot=True"),
        (404, "SubscriptionNotFound", "The subscription 'x' could not be found.", AccessError, "az account list"),
        (404, "ResourceNotFound", "The Resource 'x' was not found.", NotFoundError, "was not found"),
        (409, "Conflict", "A request is in progress.", AlreadyExistsError, "in progress"),
        (418, "Teapot", "I am one.", BackendError, "Teapot: I am one"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(
    subscription: AzureEmulator, status: int, code: str, message: str, expected: type[MedimgError], says: str
) -> None:
    """By a raw call and by the SDK alike; Azure's own words stay in the message."""
    subscription.fault(path="/workspaces/errors/", status=status, code=code, message=message, times=None)
    workspace = Workspace()
    with pytest.raises(expected, match=says) as raw, translated("looking"):
        list(workspace.arm_list(f"{workspace.id}/jobs", "2024-10-01"))
    with pytest.raises(expected, match=says) as sdk, translated("looking"):
        workspace.ml.compute.get("gpu")
    for error in (raw, sdk):
        assert _told(error).startswith("looking: ")
        assert type(error.value) is expected


def test_an_answer_that_does_not_come_is_no_refusal(
    subscription: AzureEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy, cut off, or the login's service out of reach: none of them says anything about the job."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    for path, status in (("/workspaces/errors/", 503), ("/workspaces/errors/", 0), ("login.microsoftonline.com", 0)):
        subscription.fault(path=path, status=status, code="ServerBusy", times=None)
        with pytest.raises(UnreachableError) as error:
            quick_azureml.backend().jobs()
        _told(error)
        subscription.clear_faults()


def test_nobody_signed_in_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's library writes twenty."""
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(AccessError, match="az login") as error:
        quick_azureml.backend().jobs()
    assert "nobody is signed in" in _told(error)


def test_a_wrong_secret_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Azure's own number, which people search for."""
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "not-this-one")
    with pytest.raises(AccessError) as error:
        quick_azureml.backend().jobs()
    assert "az login" in _told(error) and "not-this-one" not in _told(error)


def test_an_operation_that_fails_with_status_200_is_a_failure(subscription: AzureEmulator) -> None:
    """Azure answers 200 to the question how it went, and "Failed" in it."""
    subscription.quota("Standard NCASv3_T4 Family", 0)
    workspace = Workspace()
    body = {
        "location": workspace.location,
        "properties": {
            "computeType": "AmlCompute",
            "properties": {
                "vmSize": "Standard_NC4as_T4_v3", "vmPriority": "Dedicated", "osType": "Linux",
                "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT5M"},
            },
        },
    }  # fmt: skip
    with pytest.raises(QuotaError, match="interruptible") as error, translated("making the cluster"):
        workspace.arm("PUT", f"{workspace.id}/computes/gpu", "2024-10-01", body, wait=True)
    _told(error)


def test_what_the_sdk_refuses_itself_is_a_mistake_of_the_call() -> None:
    """Before Azure is asked."""
    from azure.ai.ml.entities import AmlCompute

    with pytest.raises((ConfigError, BackendError)), translated("making the cluster"):
        Workspace().ml.compute.begin_create_or_update(AmlCompute(name="no good name!", size="Standard_D2s_v3")).result()


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("OutOfQuota: Not enough quota available for Standard_DS3_v2", "spot=True"),
        ("AllocationFailed: there is not enough capacity", "another region"),
        ("ImageBuildFailure: conda failed", "build log"),
        ("OSError: [Errno 28] No space left on device", "more disk"),
        ("exit code 3", "^exit code 3$"),
    ],
)
def test_a_failure_is_explained(reason: str, says: str) -> None:
    """What is not known is left as it is."""
    import re

    assert re.search(says, explain_failure(reason))
