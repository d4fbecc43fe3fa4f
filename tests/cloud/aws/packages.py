"""The model registry: model package groups, and their numbered versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .calls import AwsError, Call, Operation
from .cloud import Cloud
from .records import Record, arn, now, page

__all__ = ["ModelPackages"]


class ModelPackages:
    """The model packages of all regions.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._numbers: dict[tuple[str, str], int] = {}  # given so far, also to what was deleted
        self._tokens: dict[tuple[str, str], str] = {}
        self._groups = cloud.records(
            "model-package-group",
            "ModelPackageGroup {arn} does not exist.",
            "Model Package Group already exists: {arn}",
        )
        self._packages = cloud.records(
            "model-package", "ModelPackage {arn} does not exist.", "Model Package already exists: {arn}"
        )
        cloud.serve("sagemaker", self.operations())

    def operations(self) -> dict[str, Operation]:
        """Returns the operations by AWS's names."""
        return {
            "CreateModelPackageGroup": self._create_group,
            "DescribeModelPackageGroup": lambda call: self._groups.get(call.region, _group(call)),
            "ListModelPackageGroups": self._list_groups,
            "DeleteModelPackageGroup": self._delete_group,
            "CreateModelPackage": self._create,
            "DescribeModelPackage": lambda call: self.get(call.region, call.parameters["ModelPackageName"]),
            "ListModelPackages": self._list,
            "UpdateModelPackage": self._update,
            "DeleteModelPackage": self._delete,
        }

    def get(self, region: str, name: str) -> Record:
        """Returns a version by its ARN."""
        return self._packages.get(region, name.rpartition(":model-package/")[2])

    def close(self, region: str | None = None) -> None:
        """Forgets all of a region, or of all."""
        for records in (self._packages, self._groups):
            records.clear(region)
        self._numbers = {key: number for key, number in self._numbers.items() if region not in (None, key[0])}

    def _create_group(self, call: Call) -> Mapping[str, Any]:
        name = call.parameters["ModelPackageGroupName"]
        record = {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": arn(call.region, "model-package-group", name),
            "ModelPackageGroupDescription": call.parameters.get("ModelPackageGroupDescription"),
            "CreationTime": now(),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
        }
        self._groups.add(call.region, name, record)
        self._cloud.tags.put(record["ModelPackageGroupArn"], call.parameters.get("Tags"))
        return {"ModelPackageGroupArn": record["ModelPackageGroupArn"]}

    def _list_groups(self, call: Call) -> Mapping[str, Any]:
        return page(
            call, self._groups.all(call.region), "ModelPackageGroupSummaryList", dict, name="ModelPackageGroupName"
        )

    def _delete_group(self, call: Call) -> None:
        record = self._groups.get(call.region, _group(call))
        if self._of(call.region, record["ModelPackageGroupName"]):
            raise AwsError(
                "ConflictException",
                f"Model package group {record['ModelPackageGroupArn']} cannot be deleted because it still contains "
                "model packages.",
            )
        self._groups.pop(call.region, record["ModelPackageGroupName"])
        self._numbers.pop((call.region, record["ModelPackageGroupName"]), None)
        self._cloud.tags.drop(record["ModelPackageGroupArn"])

    def _create(self, call: Call) -> Mapping[str, Any]:
        given = call.parameters
        if "ModelPackageGroupName" not in given:
            raise AwsError("ValidationException", "This emulator keeps versions of a group only")
        if given.get("Tags"):
            raise AwsError("ValidationException", "Tags are not allowed on a versioned model package; tag its group")
        group = self._groups.get(call.region, _group(call))["ModelPackageGroupName"]
        for container in given.get("InferenceSpecification", {}).get("Containers", ()):
            data = container.get("ModelDataUrl")
            if data and self._cloud.storage.read(data) is None:
                raise AwsError("ValidationException", f"Could not find model data at {data}.")
        token = (call.region, given.get("ClientToken", ""))
        with self._packages.locked():
            if token[1] and token in self._tokens:
                # The same request once more: its first answer was lost.
                return {"ModelPackageArn": self._tokens[token]}
            number = self._numbers[call.region, group] = self._numbers.get((call.region, group), 0) + 1
            name = f"{group.lower()}/{number}"
            approval = given.get("ModelApprovalStatus", "PendingManualApproval")
            record = {
                **{key: value for key, value in given.items() if key not in ("ClientToken", "Tags")},
                "ModelPackageName": name,
                "ModelPackageGroupName": group,
                "ModelPackageVersion": number,
                "ModelPackageArn": arn(call.region, "model-package", name),
                "CreationTime": now(),
                "ModelPackageStatus": "Completed",
                "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
                "ModelApprovalStatus": approval,
            }
            self._packages.add(call.region, name, record)
            self._tokens[token] = record["ModelPackageArn"]
        return {"ModelPackageArn": record["ModelPackageArn"]}

    def _of(self, region: str, group: str) -> list[Record]:
        return [record for record in self._packages.all(region) if record["ModelPackageGroupName"] == group]

    def _list(self, call: Call) -> Mapping[str, Any]:
        found = self._packages.all(call.region)
        if "ModelPackageGroupName" in call.parameters:
            found = self._of(call.region, self._groups.get(call.region, _group(call))["ModelPackageGroupName"])
        approval = call.parameters.get("ModelApprovalStatus")
        found = [record for record in found if approval in (None, record["ModelApprovalStatus"])]
        return page(call, found, "ModelPackageSummaryList", dict, name="ModelPackageName", status="ModelPackageStatus")

    def _update(self, call: Call) -> Mapping[str, Any]:
        given = dict(call.parameters)
        record = self.get(call.region, given.pop("ModelPackageArn"))
        removed = given.pop("CustomerMetadataPropertiesToRemove", ())
        if "CustomerMetadataProperties" in given:
            kept = record.get("CustomerMetadataProperties", {})
            given["CustomerMetadataProperties"] = {**kept, **given["CustomerMetadataProperties"]}
        record |= {**given, "LastModifiedTime": now()}
        for key in removed:
            record.get("CustomerMetadataProperties", {}).pop(key, None)
        return {"ModelPackageArn": record["ModelPackageArn"]}

    def _delete(self, call: Call) -> None:
        record = self.get(call.region, call.parameters["ModelPackageName"])
        self._packages.pop(call.region, record["ModelPackageName"])


def _group(call: Call) -> str:
    """Returns the group's name, which may be given as its ARN."""
    return str(call.parameters["ModelPackageGroupName"]).rpartition("/")[2]
