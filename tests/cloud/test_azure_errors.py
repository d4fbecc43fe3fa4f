"""What Azure's unmodified libraries raise becomes an error of medimg that says what to do, and only what fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import quick_azureml
from azure.storage.blob import ContainerClient
from azure_cloud.handle import AzureEmulator

from medimg.backends.azureml.errors import explain_failure, is_offline, translated, words_of
from medimg.backends.azureml.login import Login
from medimg.backends.azureml.scoring import Scoring
from medimg.backends.azureml.workspace import Workspace, _failed
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
        (409, "ScopeLocked", "The scope '/subscriptions/x/resourceGroups/ward/y' cannot perform write operation "
         "because following scope(s) are locked: '/subscriptions/x/resourceGroups/ward'. Please remove the lock.",
         AccessError, "a lock on /subscriptions/x/resourceGroups/ward.*az lock list --resource-group ward,"),
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


_INSIDE = json.dumps({"errors": {"VmSize": ["Not enough quota available for Standard_DS2_v2."]}, "status": 400})


@pytest.mark.parametrize(
    "error",
    [
        {"details": [{"code": "Inner", "message": json.dumps({"error": {"message": _INSIDE}})}]},
        {"details": [{"code": "Inner", "message": f"HttpRequest error, error detail: {_INSIDE}, internal stack"}]},
        {"details": [{"code": "OutOfQuota", "message": "None left."}]},
        {"innererror": {"code": "Inner", "innerError": {"message": "Not enough quota available."}}},
    ],
)
def test_a_reason_that_is_deep_inside_is_found(error: dict[str, Any]) -> None:
    """In whatever Azure has wrapped it; of an operation that failed as of a refusal."""
    says = r"The request is invalid\. .*(quota available|None left\.)"
    with pytest.raises(QuotaError, match=says) as quota, translated("deploying"):
        raise _failed({"code": "BadRequest", "message": "The request is invalid.", **error})
    assert "{" not in _told(quota)


def test_braces_that_are_no_error_stay_in_the_message() -> None:
    """What is not understood is shown as it is."""
    for said in ('The value {"a": 1} is wrong.', "The value {x} is wrong."):
        assert words_of({"code": "BadArgument", "message": said}) == said


def test_what_is_refused_of_an_endpoint_is_told_with_its_reason(subscription: AzureEmulator) -> None:
    """Its service is behind another one, which says that the request is invalid, whatever it was."""
    workspace = Workspace()
    path = f"{workspace.id}/onlineEndpoints"
    body = {"location": workspace.location, "properties": {"authMode": "Key", "traffic": {}}}
    workspace.arm("PUT", f"{path}/errors-taken", "2024-10-01", body, wait=True)
    subscription.make_workspace("errors-2")
    other = Workspace(workspace="errors-2")
    with pytest.raises(BackendError, match="already an endpoint with this name") as error, translated("deploying"):
        other.arm("PUT", f"{other.id}/onlineEndpoints/errors-taken", "2024-10-01", body)
    _told(error)
    said = "Not enough quota available for Standard_DS2_v2 in SubscriptionId x."
    subscription.fault(method="PUT", path="/onlineEndpoints/", status=400, code="BadArgument", message=said)
    with pytest.raises(QuotaError, match=said), translated("deploying"):
        workspace.arm("PUT", f"{path}/errors-taken", "2024-10-01", body)
    subscription.reset_workspace("errors-2")


@pytest.mark.parametrize("by_login", [True, False])
def test_storage_that_is_opened_by_the_login_names_the_role_for_it(
    subscription: AzureEmulator, monkeypatch: pytest.MonkeyPatch, by_login: bool
) -> None:
    """Bootstrap does not give it, since its own workspaces have a key."""
    storage = Workspace().storage
    if by_login:
        place = storage._container
        monkeypatch.setitem(vars(storage), "_container", ContainerClient(
            f"https://{place.account_name}.blob.core.windows.net", place.container_name, credential=Login()
        ))  # fmt: skip
    subscription.fault(path=r"\.blob\.core", status=403, code="AuthorizationPermissionMismatch", message="no")
    with pytest.raises(AccessError, match="Storage Blob Data Contributor" if by_login else "medimg azure bootstrap"):
        storage.get("k")


def test_no_request_waits_for_minutes(subscription: AzureEmulator) -> None:
    """Azure's libraries would wait 300 seconds, several times."""
    workspace = Workspace()
    clients = {
        "arm": workspace._pipeline,
        "sdk": workspace.ml.online_endpoints._online_operation._client,
        "login": workspace.credential._credential.credentials[0]._credential._client,
        "scoring": Scoring(workspace, lambda _: None)._client,
    }
    for name, client in clients.items():
        told = client._pipeline._transport.connection_config
        assert told.timeout <= 10 and told.read_timeout <= 90, name


def test_an_answer_that_does_not_come_is_no_refusal(
    subscription: AzureEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy, cut off, or the login's service busy or out of reach: none of them says anything about the job."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    jobs, login, many = "/workspaces/errors/", "login.microsoftonline.com", "AADSTS90055: Too many incoming requests."
    token = f"{login}/.*/token"  # what comes before it is a wrong tenant to Azure's library, where it is refused
    for path, status, said in ((jobs, 503, ""), (jobs, 0, ""), (login, 0, ""), (login, 503, ""), (token, 429, many)):
        subscription.fault(path=path, status=status, code="ServerBusy", message=said, times=None)
        with pytest.raises(UnreachableError) as error:
            quick_azureml.backend().jobs()
        _told(error)
        subscription.clear_faults()


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("AADSTS90055: There are too many incoming requests.", True),
        ("AADSTS90033: A transient error has occurred.", True),
        ("AADSTS50053: You've tried to sign in too many times with an incorrect user ID or password.", False),
        ("AADSTS7000215: Invalid client secret provided.", False),
    ],
)
def test_a_login_is_asked_again_where_it_was_put_off_and_not_where_it_was_refused(said: str, again: bool) -> None:
    """In the words of Entra's table of errors."""
    assert is_offline(RuntimeError(f"EnvironmentCredential: Authentication failed: {said}")) is again


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
