"""Service quotas of SageMaker: what an account may use, and AWS's words when it is used up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from .calls import ACCOUNT, AwsError, Call, Operation
from .cloud import Cloud

__all__ = ["Quotas"]

_DEFAULT = 100.0
_INSTANCES = (
    "ml.c5.xlarge", "ml.c5.2xlarge", "ml.g4dn.xlarge", "ml.g4dn.2xlarge", "ml.g4dn.12xlarge", "ml.g5.xlarge",
    "ml.g5.2xlarge", "ml.m5.large", "ml.m5.xlarge", "ml.m5.2xlarge", "ml.p3.2xlarge", "ml.p4d.24xlarge",
)  # fmt: skip
_USES = ("training job usage", "spot training job usage", "endpoint usage", "transform job usage")


class Quotas:
    """The quotas of all regions.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._set: dict[tuple[str, str], float] = {}
        names = [f"{instance} for {use}" for instance in _INSTANCES for use in _USES]
        self._names = {_code(name): name for name in names}
        operations: dict[str, Operation] = {
            "ListServiceQuotas": self._list,
            "ListAWSDefaultServiceQuotas": self._list,
            "GetServiceQuota": self._get,
            "GetAWSDefaultServiceQuota": self._get,
        }
        cloud.serve("service-quotas", operations)

    def set(self, region: str, name: str, value: float) -> None:
        """Sets a quota, such as "ml.g5.xlarge for training job usage"."""
        self._names[_code(name)] = name
        self._set[region, name] = value

    def reset(self, region: str | None = None) -> None:
        """Takes back what was set, in a region or in all."""
        self._set = {key: value for key, value in self._set.items() if region not in (None, key[0])}

    def check(self, region: str, name: str, used: int, asked: int = 1) -> None:
        """Raises AWS's refusal where so many more are too many."""
        limit = self._set.get((region, name), _DEFAULT)
        if used + asked > limit:
            raise AwsError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{name}' is {limit:g} Instances, with current utilization of {used} "
                f"Instances and a request delta of {asked} Instances. Please use AWS Service Quotas to request an "
                "increase for this quota. If AWS Service Quotas is not available, contact AWS support to request an "
                "increase for this quota.",
            )

    def _quota(self, region: str, code: str) -> Mapping[str, Any]:
        name = self._names[code]
        return {
            "ServiceCode": "sagemaker",
            "ServiceName": "Amazon SageMaker",
            "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT}:sagemaker/{code}",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": self._set.get((region, name), _DEFAULT),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }

    def _list(self, call: Call) -> Mapping[str, Any]:
        codes = sorted(self._names) if call.parameters["ServiceCode"] == "sagemaker" else []
        start, size = int(call.parameters.get("NextToken") or 0), int(call.parameters.get("MaxResults") or 100)
        answer: dict[str, Any] = {"Quotas": [self._quota(call.region, code) for code in codes[start : start + size]]}
        if start + size < len(codes):
            answer["NextToken"] = str(start + size)
        return answer

    def _get(self, call: Call) -> Mapping[str, Any]:
        code = call.parameters["QuotaCode"]
        if call.parameters["ServiceCode"] != "sagemaker" or code not in self._names:
            raise AwsError("NoSuchResourceException", "The request failed because the specified quota does not exist")
        return {"Quota": self._quota(call.region, code)}


def _code(name: str) -> str:
    return "L-" + hashlib.sha256(name.encode()).hexdigest()[:8].upper()
