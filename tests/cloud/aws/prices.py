"""AWS's price list: a few products of SageMaker, S3 and Lambda, in the form in which GetProducts tells them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .calls import AwsError, Call
from .cloud import Cloud

__all__ = ["Prices"]

PUBLISHED = "2026-11-18T00:00:00Z"
_PREFIX = {"us-east-1": "USE1", "us-east-2": "USE2", "us-west-2": "USW2", "eu-central-1": "EUC1", "eu-west-1": "EUW1"}
_LOCATION = {
    "us-east-1": "US East (N. Virginia)", "us-east-2": "US East (Ohio)", "us-west-2": "US West (Oregon)",
    "eu-central-1": "EU (Frankfurt)", "eu-west-1": "EU (Ireland)",
}  # fmt: skip
# USD per hour in the United States; elsewhere a quarter more, so that a region that is not minded shows.
_HOURLY = {
    "ml.m5.large": 0.115, "ml.m5.xlarge": 0.23, "ml.m5.2xlarge": 0.461, "ml.c5.xlarge": 0.204, "ml.c5.2xlarge": 0.408,
    "ml.g4dn.xlarge": 0.7364, "ml.g4dn.2xlarge": 0.94, "ml.g4dn.12xlarge": 4.89, "ml.g5.xlarge": 1.408,
    "ml.p3.2xlarge": 3.825,
}  # fmt: skip
_USES = {"Training": "Train", "Hosting": "Host", "BatchTransform": "Tsform", "Notebook": "Notebk"}


class Prices:
    """The price list.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._products = [*_instances(), *_serverless(), *_storage(), *_functions()]
        cloud.serve("pricing", {"GetProducts": self._get, "DescribeServices": self._describe})

    def _get(self, call: Call) -> Mapping[str, Any]:
        given = call.parameters
        if call.region not in ("us-east-1", "eu-central-1", "ap-south-1"):
            raise AwsError("ValidationException", f"the price list is not served from {call.region}")
        found = [product for product in self._products if product["serviceCode"] == given["ServiceCode"]]
        for wanted in given.get("Filters", ()):
            if wanted["Type"] != "TERM_MATCH":
                raise AwsError("InvalidParameterException", f"Unknown filter type {wanted['Type']}")
            found = [product for product in found if _matches(product["product"], wanted["Field"], wanted["Value"])]
        start, size = int(given.get("NextToken") or 0), int(given.get("MaxResults") or 100)
        answer: dict[str, Any] = {
            "FormatVersion": "aws_v1",
            "PriceList": [json.dumps(product) for product in found[start : start + size]],
        }
        if start + size < len(found):
            answer["NextToken"] = str(start + size)
        return answer

    def _describe(self, call: Call) -> Mapping[str, Any]:
        codes = sorted({product["serviceCode"] for product in self._products})
        return {"FormatVersion": "aws_v1", "Services": [{"ServiceCode": code} for code in codes]}


def _matches(product: Mapping[str, Any], field: str, value: str) -> bool:
    told = product.get(field, product["attributes"].get(field))
    return told is not None and str(told).lower() == value.lower()


def _product(
    service: str, family: str, region: str, usage: str, unit: str, dollars: float, **attributes: str
) -> dict[str, Any]:
    usage = f"{_PREFIX[region]}-{usage}"
    sku = hashlib.sha256(f"{service} {usage}".encode()).hexdigest()[:16].upper()
    dimension = {
        "unit": unit, "endRange": "Inf", "beginRange": "0", "description": f"${dollars} per {unit} of {usage}",
        "appliesTo": [], "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7", "pricePerUnit": {"USD": f"{dollars:.10f}"},
    }  # fmt: skip
    return {
        "product": {
            "productFamily": family,
            "attributes": {
                "servicecode": service, "regionCode": region, "location": _LOCATION[region],
                "locationType": "AWS Region", "usagetype": usage, "operation": "", **attributes,
            },
            "sku": sku,
        },
        "serviceCode": service,
        "terms": {
            "OnDemand": {
                f"{sku}.JRTCKXETXF": {
                    "priceDimensions": {f"{sku}.JRTCKXETXF.6YS6EN2CT7": dimension},
                    "sku": sku, "effectiveDate": "2026-11-01T00:00:00Z", "offerTermCode": "JRTCKXETXF",
                    "termAttributes": {},
                }
            }
        },
        "version": "20261118000000",
        "publicationDate": PUBLISHED,
    }  # fmt: skip


def _instances() -> Iterator[dict[str, Any]]:
    for region in _PREFIX:
        share = 1.0 if region.startswith("us-") else 1.25
        for instance, hourly in _HOURLY.items():
            for component, short in _USES.items():
                yield _product(
                    "AmazonSageMaker", "ML Instance", region, f"{short}:{instance}", "Hrs", round(hourly * share, 4),
                    instanceName=instance, instanceType=f"{instance}-{component}", component=component,
                    computeType="Standard Instances", servicename="Amazon SageMaker",
                )  # fmt: skip


def _serverless() -> Iterator[dict[str, Any]]:
    for region in _PREFIX:
        for gigabytes in range(1, 7):
            yield _product(
                "AmazonSageMaker", "ML Serverless", region, f"ServerlessInf:Mem-{gigabytes}GB", "Second",
                round(0.00002 * gigabytes, 7), component="Serverless", memory=f"{gigabytes} GB",
                servicename="Amazon SageMaker",
            )  # fmt: skip


def _storage() -> Iterator[dict[str, Any]]:
    for region in _PREFIX:
        yield _product(
            "AmazonS3", "Storage", region, "TimedStorage-ByteHrs", "GB-Mo", 0.023, storageClass="General Purpose",
            volumeType="Standard", servicename="Amazon Simple Storage Service",
        )  # fmt: skip
        yield _product(
            "AmazonS3", "API Request", region, "Requests-Tier1", "Requests", 0.000005, group="S3-API-Tier1",
            servicename="Amazon Simple Storage Service",
        )  # fmt: skip


def _functions() -> Iterator[dict[str, Any]]:
    for region in _PREFIX:
        yield _product(
            "AWSLambda", "Serverless", region, "Lambda-GB-Second", "Lambda-GB-Second", 0.0000166667,
            group="AWS-Lambda-Duration", servicename="AWS Lambda",
        )  # fmt: skip
        yield _product(
            "AWSLambda", "Serverless", region, "Request", "Requests", 0.0000002, group="AWS-Lambda-Requests",
            servicename="AWS Lambda",
        )  # fmt: skip
