"""The one place where what Azure's libraries raise becomes what medimg raises, with what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    MedimgError,
    MissingExtraError,
    NotFoundError,
    QuotaError,
    UnreachableError,
)

try:
    import azure.core.exceptions as raised
    from azure.identity import CredentialUnavailableError
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

__all__ = ["BLOB_ROLE", "UNREGISTERED", "code_of", "explain_failure", "is_offline", "translated", "words_of"]

_DENIED = {"AuthorizationFailed", "AuthorizationPermissionMismatch", "LinkedAuthorizationFailed", "Forbidden"}
UNREGISTERED = {"SubscriptionNotRegistered", "MissingSubscriptionRegistration", "NoRegisteredProviderFound"}
_QUOTA = {"ClusterCoreQuotaReached", "OutOfQuota", "QuotaExceeded", "NotEnoughQuota", "TotalCoreQuotaReached"}
_MISSING = {
    "ResourceNotFound", "ResourceGroupNotFound", "NotFound", "BlobNotFound", "ContainerNotFound", "ModelNotFound",
    "ComputeNotFound", "ResourceNotFoundError",
}  # fmt: skip
_TAKEN = {"BlobAlreadyExists", "ConditionNotMet", "ResourceExists", "AlreadyExists", "Conflict"}
_BUSY = {"TooManyRequests", "ServerBusy", "OperationTimedOut", "ServiceUnavailable", "InternalServerError"}
_SAYS_NOTHING = {"UserError", "BadRequest"}  # what it is about is inside
_WORDS = ("title", "message", "error", "errors", "details", "innererror", "innerError")
_NO_SUBSCRIPTION = {"SubscriptionNotFound", "InvalidSubscriptionId", "InvalidAuthenticationTokenTenant"}
# Among what Azure's library tells of a login that failed: it was tried, and nobody answered.
_OFFLINE = re.compile(
    r"Authentication failed: .*(connect|RemoteDisconnected|Connection|timed out|resolve|getaddrinfo|Max retries"
    r"|HTTP Error: (429|5\d\d)|temporarily|[Tt]ransient|[Tt]oo ?[Mm]any( incoming)? ?[Rr]equests|ServerBusy).*"
)

_MOST_CHARACTERS = 500  # of what Azure says
BLOB_ROLE = "Storage Blob Data Contributor"

_LOG_IN = "Run: az login, or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET. Check: medimg azure doctor"


def code_of(error: BaseException) -> str:
    """Returns Azure's word for an error, or ""; that of its first detail where the word itself says nothing."""
    code: Any = getattr(error, "error_code", None) or getattr(getattr(error, "error", None), "code", None)
    if code in _SAYS_NOTHING:
        details = getattr(getattr(error, "error", None), "details", None) or ()
        code = next((detail.code for detail in details if detail.code), code)
    return str(code or "")


def words_of(told: Any) -> str:
    """Returns all that Azure says in an error, in one line: the reason may be deep inside, even in JSON in a message.

    Args:
        told: What stands under "error" in an answer, or azure-core's object of the same; None: nothing.
    """
    return " ".join(dict.fromkeys(_sentences(told)))[:_MOST_CHARACTERS]


def _sentences(told: Any) -> Iterator[str]:
    """Yields what an error says, the outermost first."""
    if isinstance(told, str):
        before, brace, after = told.partition("{")
        inside: Any = None
        with suppress(ValueError):
            inside, _ = json.JSONDecoder().raw_decode(brace + after)
        if deeper := list(_sentences(inside)):
            yield from (*_sentences(before), *deeper)
        elif said := told.strip().split("\n")[0]:
            yield said
    elif isinstance(told, Mapping):
        for word in _WORDS:
            found = told.get(word)
            # Under "errors" are names of fields.
            yield from _sentences(list(found.values()) if word == "errors" and isinstance(found, Mapping) else found)
    elif isinstance(told, list):
        for each in told:
            yield from _sentences(each)
    elif isinstance(told, raised.ODataV4Format):
        yield from _sentences([told.message, told.details, told.innererror])


def is_offline(error: BaseException) -> bool:
    """Tells whether a login failed because its service did not answer, and not because it refused."""
    return _OFFLINE.search(str(error)) is not None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises what Azure's libraries raise inside the block as an error of medimg.

    Args:
        what: What is being done, for the message: "submitting the job 'chest-…-1'".
    """
    try:
        yield
    except MedimgError:
        raise
    except raised.ClientAuthenticationError as error:
        raise _of_login(what, error) from error
    except raised.HttpResponseError as error:
        raise _of_answer(what, error) from error
    except (raised.ServiceRequestError, raised.ServiceResponseError, raised.IncompleteReadError) as error:
        raise UnreachableError(
            f"{what}: Azure did not answer ({type(error).__name__}: {_first_line(error)})"
        ) from error
    except raised.AzureError as error:
        raise BackendError(f"{what}: {_first_line(error)}") from error
    except Exception as error:
        # azure.ai.ml takes 1.7 s to import: its errors are known by where they come from.
        if type(error).__module__.startswith("azure.ai.ml"):
            raise _of_sdk(what, error) from error
        raise


def _first_line(error: BaseException) -> str:
    """Returns what an error says, without its code, which is told apart."""
    if said := words_of(getattr(error, "error", None)):
        return said
    said = str(getattr(error, "message", "") or error).strip().split("\n")[0]
    return re.sub(r"^\(\w+\) ", "", said)[:_MOST_CHARACTERS]


def _of_login(what: str, error: Exception) -> MedimgError:
    """Translates that nobody is signed in, in place of the twenty lines that Azure's library writes."""
    if match := _OFFLINE.search(str(error)):
        return UnreachableError(f"{what}: Azure's login did not answer ({match[0].strip()[:300]})")
    if isinstance(error, CredentialUnavailableError) or "failed to retrieve a token" in str(error):
        return AccessError(
            f"{what}: nobody is signed in to Azure here. {_LOG_IN}; docs/how-to/first-azure-account.md shows it from "
            "the start"
        )
    return AccessError(f"{what}: Azure does not accept this login ({_first_line(error)}). {_LOG_IN}")


def _of_answer(what: str, error: Any) -> MedimgError:
    """Translates Azure's answer; its words stay in the message."""
    code, said, status = code_of(error), _first_line(error), int(error.status_code or 0)
    if code in UNREGISTERED:
        match = re.search(r"Microsoft\.\w+", said)
        provider = match[0] if match else "Microsoft.MachineLearningServices"
        return AccessError(
            f"{what}: the subscription has not switched on {provider}. Run: medimg azure bootstrap, or: az provider "
            f"register --namespace {provider} --wait"
        )
    if code in _QUOTA or re.search(r"exceed\w* (the )?quota|[Nn]ot enough quota|quota limits?", said):
        return QuotaError(quota(what, code, said))
    if code in _NO_SUBSCRIPTION:
        return AccessError(
            f"{what}: this login does not see the subscription ({said}). See those there are: az account list "
            "--output table, and pass subscription='…'"
        )
    if status == 401:
        return AccessError(f"{what}: Azure does not accept this login ({code}: {said}). {_LOG_IN}")
    if code == "ScopeLocked":
        return AccessError(f"{what}: {_locked(said)}")
    if code == "AuthorizationPermissionMismatch" and _by_login(error):
        return AccessError(
            f"{what}: the workspace's Blob Storage has no key to be opened with, and this login may not open it. Ask "
            f"your administrator for the role {BLOB_ROLE!r} on its storage account. Azure said: {said}"
        )
    if code in _DENIED or status == 403:
        return AccessError(f"{what}: {_denied(said)}")
    if status == 404 or code in _MISSING:
        return NotFoundError(f"{what}: {said or 'there is no such thing'}")
    if status in (409, 412) or code in _TAKEN or re.search(r"already exists", said):
        return AlreadyExistsError(f"{what}: {said}")
    if not status and isinstance(error.inner_exception, raised.AzureError):  # an answer that broke off
        return UnreachableError(f"{what}: the connection to Azure broke ({_first_line(error.inner_exception)})")
    if status in (408, 429) or status >= 500 or code in _BUSY:
        return UnreachableError(f"{what}: Azure is busy ({code or status}): {said}")
    return BackendError(f"{what}: {code + ': ' if code else ''}{said}")


def _denied(said: str) -> str:
    match = re.search(r"perform action '([^']+)'", said)
    action = f"may not do {match[1]}" if match else "may not do this"
    return (
        f"this login {action}. Ask your administrator for the roles that medimg needs: medimg azure bootstrap "
        f"--dry-run prints them. Azure said: {said or 'access denied'}"
    )


def _locked(said: str) -> str:
    match = re.search(r"following scope\(s\) are locked: '([^']+)'", said)
    place = f" on {match[1]}" if match else ""
    group = re.search(r"/resourceGroups/([^/']+)", match[1] if match else said, re.IGNORECASE)
    shown = f"az lock list{f' --resource-group {group[1]}' if group else ''}"
    return (
        f"somebody has put a lock{place}, and Azure refuses while it is there. Show it with: {shown}, and have it "
        f"removed by whoever owns it: az lock delete --ids ID. Azure said: {said}"
    )


def _by_login(error: Any) -> bool:
    """Tells whether a refused request was signed with the login itself, and not with a key or signature."""
    request = getattr(error.response, "request", None)
    return str(getattr(request, "headers", {}).get("Authorization", "")).startswith("Bearer ")


def quota(what: str, code: str, said: str) -> str:
    """Returns what to do about a quota that is used up."""
    return (
        f"{what}: the subscription has no cores left of this kind ({code or 'quota'}). Take interruptible machines, "
        "whose quota is another (resources=medimg.Resources(spot=True)), another kind "
        "(resources=medimg.Resources(instance='Standard_…')), or ask for more: ml.azure.com > Quota. "
        f"Azure said: {said}"
    )


def _of_sdk(what: str, error: Exception) -> MedimgError:
    """Translates what azure-ai-ml refuses before Azure is asked."""
    if type(error).__name__ == "ValidationException":
        return ConfigError(f"{what}: {_first_line(error)}")
    return BackendError(f"{what}: {_first_line(error)}")


def explain_failure(reason: str) -> str:
    """Returns Azure's reason for a job's or deployment's failure with what to do about it.

    Args:
        reason: In Azure's words.
    """
    if re.search(r"OutOfQuota|CoreQuota|[Qq]uota", reason):
        return quota("starting", "OutOfQuota", reason)
    if re.search(r"AllocationFailed|SkuNotAvailable|OverconstrainedAllocation|capacity", reason, re.I):
        return (
            f"Azure has no free machine of this kind now ({reason}). Submit again later, take another instance "
            "(resources=medimg.Resources(instance='Standard_…')), or another region"
        )
    if re.search(r"ImageBuildFailure|image build|docker pull|ManifestUnknown", reason, re.I):
        return f"the environment could not be built ({reason}). Look at its build log: ml.azure.com > Environments"
    if re.search(r"No space left|ENOSPC|Errno 28\b|DiskFull", reason):
        return f"{reason}. Take a machine with more disk: resources=medimg.Resources(instance='Standard_…')"
    return reason
