"""The one place where what boto3 raises becomes what medimg raises, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    import botocore.exceptions as raised
    from botocore.parsers import ResponseParserError
except ImportError as error:
    raise MissingExtraError("the SageMaker backend", "sagemaker") from error

__all__ = ["code_of", "explain_failure", "translated"]

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_CALLER = {
    "UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "InvalidSignatureException", "AuthFailure", "IncompleteSignature", "MissingAuthenticationToken",
}  # fmt: skip
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AuthorizationError"}
_BUSY = {
    "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
    "SlowDown", "ProvisionedThroughputExceededException", "PriorRequestNotComplete",
    "ServiceUnavailable", "ServiceUnavailableException", "InternalServerException", "InternalServerError",
    "InternalFailure", "InternalError", "RequestTimeout", "RequestTimeoutException", "500", "502", "503", "504", "429",
}  # fmt: skip
_MISSING = {
    "ResourceNotFound", "ResourceNotFoundException", "NotFoundException", "NotFound", "NoSuchKey", "NoSuchEntity",
    "ParameterNotFound", "404", "ObjectNotFoundException",
}  # fmt: skip
_TAKEN = {
    "ResourceInUse", "ResourceInUseException", "ResourceConflictException", "ConflictException", "EntityAlreadyExists",
    "ParameterAlreadyExists", "PreconditionFailed", "ConditionalRequestConflict", "AlreadyExistsException",
}  # fmt: skip
_FULL = {
    "ResourceLimitExceeded", "ServiceQuotaExceededException", "CodeStorageExceededException", "LimitExceeded",
    "LimitExceededException", "ParameterLimitExceeded",
}  # fmt: skip
_NOT_IN_REGION = {"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure"}
_THROTTLED = re.compile(r"throttl|rate exceeded|too many requests", re.I)

_LOG_IN = (
    "Log in anew (for instance: aws sso login), or set AWS_PROFILE to a profile that works. Check: medimg aws doctor"
)


def code_of(error: BaseException) -> str:
    """Returns AWS's word for an error, or ""."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises what boto3 raises inside the block as an error of medimg.

    Args:
        what: What is being done, for the message: "submitting the job 'chest-…-1'".
    """
    try:
        yield
    except MedimgError:
        raise
    except raised.ClientError as error:
        raise _of_answer(what, error) from error
    except (raised.BotoCoreError, raised.HTTPClientError, ResponseParserError) as error:
        # An answer that cannot be parsed is not AWS's: a proxy stands in between.
        raise _of_sender(what, error) from error


def _of_sender(what: str, error: Exception) -> MedimgError:
    """Translates what went wrong before there was an answer."""
    if isinstance(error, raised.NoRegionError):
        return ConfigError("no AWS region is set. Pass region='eu-central-1', or set AWS_DEFAULT_REGION")
    if isinstance(error, raised.ProfileNotFound):
        return ConfigError(f"{error}. See the profiles there are: aws configure list-profiles")
    if isinstance(error, (raised.NoCredentialsError, raised.PartialCredentialsError, raised.CredentialRetrievalError)):
        return AccessError(
            f"{what}: there are no AWS credentials here ({error}). Run: aws configure sso (or aws configure), "
            "or set AWS_PROFILE; docs/how-to/first-aws-account.md shows it from the start"
        )
    if isinstance(error, (raised.SSOError, raised.TokenRetrievalError)):
        return AccessError(f"{what}: the login has ended ({error}). {_LOG_IN}")
    if isinstance(error, raised.ParamValidationError):
        return BackendError(f"{what}: {error}")
    return UnreachableError(f"{what}: AWS did not answer ({type(error).__name__}: {error})")


def _of_answer(what: str, error: raised.ClientError) -> MedimgError:
    """Translates AWS's answer; its words stay in the message."""
    code, said = code_of(error), str(error.response.get("Error", {}).get("Message", "")) or str(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    operation = error.operation_name
    if code in _EXPIRED:
        return AccessError(f"{what}: the AWS login has expired. {_LOG_IN}")
    if code in _UNKNOWN_CALLER:
        switched = (
            ". Or the region is one that an account must switch on first, and has not: aws account list-regions"
            if code in _NOT_IN_REGION
            else ""
        )
        return AccessError(f"{what}: AWS does not know these credentials ({code}). {_LOG_IN}{switched}")
    if "KMS" in code or code in ("DisabledException", "InvalidKeyUsageException"):
        return AccessError(f"{what}: {_about_key(f'{code}: {said}')}")
    if code in _DENIED or (code == "403" and operation.startswith(("Head", "Get"))):
        return AccessError(f"{what}: {_denied(operation, said)}")
    if code in _FULL and status != 429 and not _THROTTLED.search(said):
        return QuotaError(_quota(what, code, said))
    if code == "NoSuchBucket":
        return NotFoundError(
            f"{what}: the bucket does not exist. Make it: medimg aws bootstrap, or "
            "medimg.backend('sagemaker', create_bucket=True)"
        )
    # Before the codes: SageMaker says ValidationException to nearly everything.
    if re.search(r"already exist|Cannot create already|must be unique", said) or code in _TAKEN:
        return AlreadyExistsError(f"{what}: {said}")
    if re.search(r"assume (the )?role|role.*(not exist|invalid|cannot be (found|assumed))|iam:PassRole", said, re.I):
        return AccessError(
            f"{what}: the role cannot be used ({said}). Make it with 'medimg aws bootstrap', or pass role='NAME or ARN'"
        )
    if re.search(r"Could not find|not found|No [\w ]+ found|not exist|Requested resource", said) or code in _MISSING:
        return NotFoundError(f"{what}: {said}")
    if code in _BUSY or code in _FULL or status in (429, 500, 502, 503, 504):
        attempts = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        return UnreachableError(f"{what}: AWS is busy ({code}, {attempts} more attempts were made): {said}")
    return BackendError(f"{what}: {code}: {said}")


def _denied(operation: str, said: str) -> str:
    match = re.search(r"not authorized to perform: ?([\w:*-]+)", said)
    action = match[1] if match else operation
    return (
        f"these credentials may not do {action}. Ask your administrator to allow it; the policies medimg needs: "
        f"medimg aws bootstrap --dry-run. AWS said: {said or 'access denied'}"
    )


def _about_key(said: str) -> str:
    return (
        f"the key of kms_key='…' cannot be used ({said}). It must be enabled, symmetric and of this region, and its "
        "policy must let you and the execution role use it. Look at it: aws kms describe-key --key-id ARN"
    )


def _quota(what: str, code: str, said: str) -> str:
    match = re.search(r"service limit '([^']+)'", said)
    told = f"{what}: the account's quota for {match[1]!r} is used up" if match else f"{what}: a quota of AWS is used up"
    if code != "ResourceLimitExceeded":  # SageMaker's own word
        return (
            f"{told} ({code}). Delete what is no longer needed, or ask AWS for more: Service Quotas. AWS said: {said}"
        )
    place = f"Service Quotas > Amazon SageMaker{f' > {match[1]}' if match else ''}"
    other = ""
    if match and match[1].startswith("ml."):
        other = ", or take another instance: resources=medimg.Resources(instance='ml.…')"
    return f"{told}. Ask AWS for more of it ({place}){other}. AWS said: {said}"


def explain_failure(reason: str, *, local_disk: bool = False) -> str:
    """Returns AWS's reason for a job's failure with what to do about it.

    Args:
        reason: In AWS's words.
        local_disk: Whether the job's disk belongs to its instance, so that no other size can be asked for.
    """
    if "CapacityError" in reason or "InsufficientCapacity" in reason.replace(" ", ""):
        return (
            f"AWS has no free machine of this kind now ({reason}). Submit again later, take another instance "
            "(resources=medimg.Resources(instance='ml.…')), or another region"
        )
    if re.search(r"\bkms\b|KMS", reason):
        return _about_key(reason)
    if re.search(r"[Ii]mage.*(not found|pull|does not exist)|CannotPullContainer", reason):
        return f"the image cannot be used ({reason}). Pass image='…' of this region, or leave it out"
    if re.search(r"No space left|ENOSPC|Errno 28\b", reason):
        if local_disk:
            return (
                f"{reason}. The disk of this instance has a fixed size. Take a larger one of its family: "
                "resources=medimg.Resources(instance='ml.…')"
            )
        return f"{reason}. Give the job more disk: resources=medimg.Resources(disk_gb=…)"
    if re.search(r"assume|role", reason) and "ClientError" in reason:
        return f"{reason}. Check the role: medimg aws doctor"
    return reason
