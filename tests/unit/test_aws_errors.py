"""What AWS answers becomes an error of medimg that says what to do, and only what fits."""

from __future__ import annotations

import pytest

pytest.importorskip("boto3", reason="translating AWS's errors needs boto3: pip install 'medimg[sagemaker]'")

from botocore.exceptions import ClientError

from medimg.backends.sagemaker.errors import explain_failure, translated
from medimg.errors import AccessError, MedimgError, QuotaError, UnreachableError


def _translated(
    code: str, message: str = "", *, status: int = 400, operation: str = "CreateTrainingJob"
) -> MedimgError:
    """Returns what an answer of AWS becomes."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(MedimgError) as raised, translated("trying"):
        raise ClientError(answer, operation)  # type: ignore[arg-type]
    return raised.value


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "InvalidClientTokenId"])
def test_unknown_credentials_may_be_a_region_that_is_not_switched_on(code: str) -> None:
    """AWS says the same to both."""
    error = _translated(code, "The security token included in the request is invalid.", status=403)
    assert isinstance(error, AccessError)
    assert "aws sso login" in str(error) and "aws account list-regions" in str(error)


def test_a_wrong_signature_says_nothing_of_regions() -> None:
    """A region that is switched off does not answer so."""
    assert "list-regions" not in str(_translated("SignatureDoesNotMatch", status=403))


def test_a_limit_that_is_exceeded_is_a_quota() -> None:
    """To wait does not help."""
    error = _translated("LimitExceededException", "Resource limit exceeded.", operation="CreateLogGroup")
    assert isinstance(error, QuotaError)
    assert "CreateLogGroup" not in str(error) and "Service Quotas" in str(error)


@pytest.mark.parametrize(("message", "status"), [("", 429), ("Rate exceeded", 400), ("Throttling: slow down", 400)])
def test_a_limit_of_requests_is_a_busy_aws(message: str, status: int) -> None:
    """To wait helps."""
    assert isinstance(_translated("LimitExceededException", message, status=status), UnreachableError)


def test_another_instance_is_advised_only_where_instances_are_short() -> None:
    """SageMaker has quotas of other things, and other services have quotas."""
    said = "The account-level service limit '{}' is 0 Instances, with current utilization of 0 Instances"
    of_instance = str(_translated("ResourceLimitExceeded", said.format("ml.g5.xlarge for training job usage")))
    assert "Amazon SageMaker > ml.g5.xlarge for training job usage" in of_instance and "instance='ml.…'" in of_instance
    of_number = str(
        _translated("ResourceLimitExceeded", said.format("Total endpoints across all serverless endpoints"))
    )
    assert "Amazon SageMaker > Total endpoints" in of_number and "instance=" not in of_number
    for code in ("CodeStorageExceededException", "ServiceQuotaExceededException", "LimitExceededException"):
        assert "SageMaker" not in str(_translated(code, "too much of it"))
        assert "instance=" not in str(_translated(code, "too much of it"))


@pytest.mark.parametrize(
    "code", ["KMS.DisabledException", "KMSInvalidStateException", "KMS.NotFoundException", "DisabledException"]
)
def test_a_key_that_cannot_be_used_is_named_as_the_cause(code: str) -> None:
    """S3, Lambda and KMS itself spell it in their own ways; none is a missing object."""
    error = _translated(code, "the key does not exist or is disabled", operation="PutObject")
    assert isinstance(error, AccessError)
    assert "kms_key" in str(error) and "aws kms describe-key" in str(error)


@pytest.mark.parametrize(
    "reason",
    ["OSError: [Errno 28] No space left on device", "ENOSPC: write failed", "AlgorithmError: [Errno 28]"],
)
def test_a_full_disk_is_explained(reason: str) -> None:
    """Where the disk belongs to the instance, its size cannot be asked for."""
    assert "disk_gb=" in explain_failure(reason)
    there = explain_failure(reason, local_disk=True)
    assert reason in there and "disk_gb" not in there and "larger" in there


@pytest.mark.parametrize("reason", ["could not read the disk label", "AlgorithmError: [Errno 281]"])
def test_what_only_sounds_like_a_full_disk_gets_no_such_advice(reason: str) -> None:
    """A word is not a reason."""
    assert explain_failure(reason) == reason


def test_a_job_that_may_not_use_the_key_is_told_of_the_key() -> None:
    """And not of its role, which AWS names in the same sentence."""
    reason = "ClientError: the role arn:aws:iam::1:role/x is not authorized to perform: kms:Decrypt"
    assert "aws kms describe-key" in explain_failure(reason)
