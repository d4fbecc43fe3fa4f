"""Registered models: a model package group a name, a model package a version, which SageMaker can serve as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from medimg.backends.identity import NAME
from medimg.backends.resource import Resource
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.archives import Archives
from medimg.backends.sagemaker.errors import translated
from medimg.errors import AlreadyExistsError, NotFoundError
from medimg.progress import Display, Report

__all__ = ["Registry"]

_ID = re.compile(rf"({NAME.pattern})/([1-9]\d*)")
_APPROVAL = {"Approved": "approved", "Rejected": "rejected", "PendingManualApproval": "pending"}
_AT_ONCE = 8


class Registry:
    """The registered models of an account.

    Args:
        account: Whose.
        archives: Where the models are kept.
    """

    def __init__(self, account: Account, archives: Archives) -> None:
        self._account = account
        self._archives = archives

    @property
    def _client(self) -> Any:
        return self._account.client("sagemaker")

    def _arn(self, id: str) -> str:
        found = _ID.fullmatch(id)
        if not found:
            raise NotFoundError(f"SageMaker has no registered model {id!r}. See backend.models()")
        return self._account.arn("model-package", f"{found[1]}/{found[2]}")

    def register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        """Uploads a model and creates a model package that waits for approval; returns its version."""
        with Display(name) as display:
            uri = self._archives.upload(folder, str(details["digest"]), display)
        report = self._archives.upload_report(folder, str(details["digest"]))
        client = self._client
        with translated(f"registering {name!r}"):
            try:
                with translated(f"making the model package group {name!r}"):
                    client.create_model_package_group(
                        ModelPackageGroupName=name,
                        ModelPackageGroupDescription="A classifier of medical images, by medimg",
                        Tags=self._account.tag_list(),
                    )
            except AlreadyExistsError:
                if not self._is_ours(name):
                    raise AlreadyExistsError(
                        f"{name!r} is a model package group that medimg did not make. Pass another name="
                    ) from None
            answer = client.create_model_package(
                ModelPackageGroupName=name,
                ModelPackageDescription=f"medimg model {details['digest'][:12]} of job {details['job'] or 'unknown'}",
                InferenceSpecification={
                    "Containers": [self._archives.container(uri, details)],
                    "SupportedContentTypes": ["image/png", "image/jpeg", "application/octet-stream"],
                    "SupportedResponseMIMETypes": ["application/json"],
                },
                ModelApprovalStatus="PendingManualApproval",
                CustomerMetadataProperties=_as_properties(details),
                ModelMetrics={"ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": report}}},
            )
        return str(answer["ModelPackageArn"].rpartition("/")[2])

    def _is_ours(self, group: str) -> bool:
        return self._account.owns(self._account.arn("model-package-group", group))

    def describe(self, id: str) -> Resource:
        """Returns a registered version."""
        arn = self._arn(id)
        with translated(f"looking for the model {id!r}"):
            answer = self._client.describe_model_package(ModelPackageName=arn)
        told = answer.get("CustomerMetadataProperties", {})
        if "medimg:digest" not in told:
            raise NotFoundError(f"{id!r} is no model of medimg. See backend.models()")
        details: dict[str, Any] = {
            "digest": told["medimg:digest"],
            "job": told.get("medimg:job", ""),
            "metrics": {
                name.removeprefix("metric:"): None if value == "none" else float(value)
                for name, value in told.items()
                if name.startswith("metric:")
            },
            "approval": _APPROVAL.get(answer.get("ModelApprovalStatus", ""), ""),
            "report": answer.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", ""),
            "archive": answer["InferenceSpecification"]["Containers"][0]["ModelDataUrl"],
        }
        return Resource("model", id, "registered", answer["CreationTime"].timestamp(), details)

    def all(self) -> list[Resource]:
        """Returns all registered versions of ours."""
        with translated("listing the registered models"):
            pages = self._client.get_paginator("list_model_package_groups").paginate()
            groups = [
                group["ModelPackageGroupName"] for page in pages for group in page["ModelPackageGroupSummaryList"]
            ]

        def versions(group: str) -> list[Resource]:
            if not self._is_ours(group):
                return []
            with translated(f"listing the versions of {group!r}"):
                pages = self._client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
                arns = [package["ModelPackageArn"] for page in pages for package in page["ModelPackageSummaryList"]]
            found = []
            for arn in arns:
                try:
                    found.append(self.describe(f"{group}/{arn.rpartition('/')[2]}"))
                except NotFoundError:  # deleted meanwhile
                    continue
            return found

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [resource for found in pool.map(versions, groups) for resource in found]

    def fetch(self, id: str, target: Path, report: Report) -> None:
        """Downloads a registered model folder."""
        self._archives.download(str(self.describe(id).details["archive"]), target, report)

    def delete(self, id: str) -> None:
        """Deletes a version; its group stays, so that its number is never given again."""
        self.describe(id)
        with suppress(NotFoundError), translated(f"deleting the model {id!r}"):
            self._client.delete_model_package(ModelPackageName=self._arn(id))

    def delete_empty_groups(self) -> None:
        """Deletes the groups of ours that have no versions."""
        with translated("listing the registered models"):
            pages = self._client.get_paginator("list_model_package_groups").paginate()
            groups = [
                group["ModelPackageGroupName"] for page in pages for group in page["ModelPackageGroupSummaryList"]
            ]
        for group in filter(self._is_ours, groups):
            with translated(f"deleting the empty group {group!r}"):
                client = self._client
                if not client.list_model_packages(ModelPackageGroupName=group)["ModelPackageSummaryList"]:
                    client.delete_model_package_group(ModelPackageGroupName=group)


def _as_properties(details: Mapping[str, Any]) -> dict[str, str]:
    """Returns details as SageMaker's metadata, whose values may hold no braces or quotes."""
    metrics = {
        f"metric:{name}": "none" if value is None else json.dumps(value) for name, value in details["metrics"].items()
    }
    job = {"medimg:job": str(details["job"])} if details["job"] else {}
    return {"medimg:digest": str(details["digest"]), **job, **dict(list(metrics.items())[:40])}
