"""Endpoints: made, switched over to another configuration, invoked and deleted."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from werkzeug.wrappers import Response

from .account import LogStream
from .calls import ACCOUNT, AwsError, Call, Operation
from .cloud import Cloud
from .deployment import Deployment, NotHealthyError
from .models import Models
from .quotas import Quotas
from .records import Record, arn, now, page

__all__ = ["Endpoints"]

_INVOKE_SECONDS = 60.0
_LARGEST_BYTES = 6 * 1024 * 1024
_LARGEST_SERVERLESS_BYTES = 4 * 1024 * 1024
_PASSED_ON = {
    "Content-Type": "Content-Type",
    "Accept": "Accept",
    "X-Amzn-SageMaker-Custom-Attributes": "X-Amzn-SageMaker-Custom-Attributes",
}


class Endpoints:
    """The endpoints of all regions.

    Args:
        cloud: The emulator.
        models: What they serve.
        quotas: How many machines of a kind may serve.
    """

    def __init__(self, cloud: Cloud, models: Models, quotas: Quotas) -> None:
        self._cloud = cloud
        self._models = models
        self._quotas = quotas
        self._serving: dict[tuple[str, str], Deployment] = {}
        self._records = cloud.records(
            "endpoint", 'Could not find endpoint "{arn}".', 'Cannot create already existing endpoint "{arn}".'
        )
        cloud.serve("sagemaker", self.operations())
        cloud.serve("sagemaker-runtime", {"InvokeEndpoint": self._invoke})
        cloud.before["application-autoscaling", "RegisterScalableTarget"] = self._check_target

    def operations(self) -> dict[str, Operation]:
        """Returns the operations by AWS's names."""
        return {
            "CreateEndpoint": self._create,
            "DescribeEndpoint": self._describe,
            "ListEndpoints": self._list,
            "UpdateEndpoint": self._update,
            "UpdateEndpointWeightsAndCapacities": self._set_capacities,
            "DeleteEndpoint": self._delete,
        }

    def close(self, region: str | None = None) -> None:
        """Ends and forgets all of a region, or of all."""
        self._records.clear(region)
        for (where, name), deployment in list(self._serving.items()):
            if region in (None, where):
                deployment.kill()
                self._serving.pop((where, name), None)

    # -- making -------------------------------------------------------------------------------------------------------

    def _create(self, call: Call) -> Mapping[str, Any]:
        name, config = call.parameters["EndpointName"], call.parameters["EndpointConfigName"]
        with self._records.locked():
            if name not in self._records.names(call.region):
                self._check_quota(call.region, config)
            moment = now()
            record: Record = {
                "EndpointName": name,
                "EndpointArn": arn(call.region, "endpoint", name),
                "EndpointStatus": "Creating",
                "ProductionVariants": [],
                "EndpointConfigName": self._models.config(call.region, config)["EndpointConfigName"],
                "CreationTime": moment,
                "LastModifiedTime": moment,
            }
            self._records.add(call.region, name, record)
            self._cloud.tags.put(record["EndpointArn"], call.parameters.get("Tags"))
        self._begin(call.region, record, config)
        return {"EndpointArn": record["EndpointArn"]}

    def _update(self, call: Call) -> Mapping[str, Any]:
        record = self._records.get(call.region, call.parameters["EndpointName"])
        config = self._models.config(call.region, call.parameters["EndpointConfigName"])["EndpointConfigName"]
        with self._records.locked():
            self._refuse_in_progress(record)
            record |= {"EndpointStatus": "Updating", "LastModifiedTime": now()}
            record.pop("FailureReason", None)
        self._begin(call.region, record, config)
        return {"EndpointArn": record["EndpointArn"]}

    def _begin(self, region: str, record: Record, config: str) -> None:
        variant = self._models.config(region, config)["ProductionVariants"][0]
        record["PendingDeploymentSummary"] = {
            "EndpointConfigName": config, "ProductionVariants": [_pending(variant)], "StartTime": now(),
        }  # fmt: skip
        work = threading.Thread(target=self._deploy, args=(region, record, config, variant), daemon=True)
        work.start()

    def _deploy(self, region: str, record: Record, config: str, variant: Mapping[str, Any]) -> None:
        """Starts the new container; only when that is healthy are requests sent to it."""
        name = record["EndpointName"]
        instance = uuid.uuid4().hex[:17] if "ServerlessConfig" in variant else f"i-{uuid.uuid4().hex[:17]}"
        stream = LogStream(region, f"/aws/sagemaker/Endpoints/{name}", f"{variant['VariantName']}/{instance}")
        old, deployment = self._serving.get((region, name)), None
        try:
            container = self._models.container(region, variant["ModelName"])
            deployment = Deployment(self._cloud, region, name, container, self._models, stream)
            # AWS loses its way where the configuration is deleted meanwhile.
            deployment.start(lambda: self._models.config(region, config))
        except (NotHealthyError, AwsError, OSError) as error:
            if deployment is not None:
                deployment.kill()
            told = error.message if isinstance(error, AwsError) else str(error)
            if isinstance(error, NotHealthyError) and told.startswith("did not pass"):
                told = f"The primary container for production variant {variant['VariantName']} {told}"
            record.pop("PendingDeploymentSummary", None)
            record |= {
                "FailureReason": told[:1024],
                "EndpointStatus": "Failed" if old is None else "InService",
                "LastModifiedTime": now(),
            }
            return
        with self._records.locked():
            gone = record["EndpointName"] not in self._records.names(region)
            if not gone:
                self._serving[region, name] = deployment
                record.pop("PendingDeploymentSummary", None)
                record |= {
                    "EndpointConfigName": config,
                    "ProductionVariants": [_summary(variant, container.image)],
                    "EndpointStatus": "InService",
                    "LastModifiedTime": now(),
                }
        for ended in (deployment,) if gone else (old,):
            if ended is not None:
                ended.close()

    def _check_quota(self, region: str, config: str) -> None:
        variant = self._models.config(region, config)["ProductionVariants"][0]
        if "InstanceType" not in variant:
            return
        kind = f"{variant['InstanceType']} for endpoint usage"
        used = sum(
            each.get("CurrentInstanceCount", 0)
            for record in self._records.all(region)
            for each in record["ProductionVariants"]
            if each.get("_InstanceType") == variant["InstanceType"]
        )
        self._quotas.check(region, kind, used, variant["InitialInstanceCount"])

    def _refuse_in_progress(self, record: Record) -> None:
        if record["EndpointStatus"] in ("Creating", "Updating", "Deleting"):
            raise AwsError("ValidationException", f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')

    def _check_target(self, call: Call) -> None:
        """Refuses to scale what is no variant of an endpoint in service."""
        given = call.parameters
        if given["ServiceNamespace"] != "sagemaker":
            return
        _, name, _, variant = given["ResourceId"].split("/")
        for record in self._records.all(call.region):
            for told in record["ProductionVariants"] if record["EndpointStatus"] == "InService" else ():
                if (record["EndpointName"], told["VariantName"]) == (name, variant) and "CurrentInstanceCount" in told:
                    return
        raise AwsError("ValidationException", f"No scalable resource found: {given['ResourceId']} is not in service")

    # -- reading and ending -------------------------------------------------------------------------------------------

    def _describe(self, call: Call) -> Record:
        return dict(self._records.get(call.region, call.parameters["EndpointName"]))

    def _list(self, call: Call) -> Mapping[str, Any]:
        return page(
            call, self._records.all(call.region), "Endpoints", dict, name="EndpointName", status="EndpointStatus"
        )

    def _set_capacities(self, call: Call) -> Mapping[str, Any]:
        record = self._records.get(call.region, call.parameters["EndpointName"])
        self._refuse_in_progress(record)
        for wanted in call.parameters["DesiredWeightsAndCapacities"]:
            for variant in record["ProductionVariants"]:
                if variant["VariantName"] == wanted["VariantName"] and "DesiredInstanceCount" in wanted:
                    count = wanted["DesiredInstanceCount"]
                    variant |= {"DesiredInstanceCount": count, "CurrentInstanceCount": count}
        return {"EndpointArn": record["EndpointArn"]}

    def _delete(self, call: Call) -> None:
        name = call.parameters["EndpointName"]
        record = self._records.get(call.region, name)
        if not self._cloud.settings.delete_in_progress:
            self._refuse_in_progress(record)
        with self._records.locked():
            if record["EndpointStatus"] == "Deleting":
                return
            record |= {"EndpointStatus": "Deleting", "LastModifiedTime": now()}
            deployment = self._serving.pop((call.region, name), None)

        def end() -> None:
            if deployment is not None:
                deployment.close()
            self._records.discard(call.region, name)
            self._cloud.tags.drop(record["EndpointArn"])

        threading.Thread(target=end, daemon=True).start()

    # -- invoking -----------------------------------------------------------------------------------------------------

    def _invoke(self, call: Call) -> Response:
        name = call.path_parameters["EndpointName"]
        with ExitStack() as held:
            with self._records.locked():  # so that nothing is closed between being found and being held
                deployment = self._serving.get((call.region, name))
                if deployment is None:
                    raise AwsError("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
                held.enter_context(deployment.held())
            return self._answer(call, name, deployment)

    def _answer(self, call: Call, name: str, deployment: Deployment) -> Response:
        variant = self._records.get(call.region, name)["ProductionVariants"][0]
        largest = _LARGEST_SERVERLESS_BYTES if "CurrentServerlessConfig" in variant else _LARGEST_BYTES
        if len(call.body) > largest:
            raise AwsError("ValidationError", f"HTTP content length exceeded {largest} bytes.")
        passed = {name: call.header(header) for name, header in _PASSED_ON.items()}
        answer = deployment.invoke(
            call.body, {name: value for name, value in passed.items() if value is not None}, _INVOKE_SECONDS
        )
        if answer.status == 0:
            raise self._model_error(
                call, name, 0, "Your invocation timed out while waiting for a response from container primary."
            )
        if answer.status >= 400:
            raise self._model_error(call, name, answer.status, answer.body.decode(errors="replace"))
        headers = {"x-Amzn-Invoked-Production-Variant": variant["VariantName"]}
        if "x-amzn-sagemaker-custom-attributes" in answer.headers:
            told = answer.headers["x-amzn-sagemaker-custom-attributes"]
            headers["X-Amzn-SageMaker-Custom-Attributes"] = told
        return Response(answer.body, 200, headers, content_type=answer.headers.get("content-type", ""))

    def _model_error(self, call: Call, name: str, status: int, told: str) -> AwsError:
        whose = "client" if 400 <= status < 500 else "server"
        group = f"/aws/sagemaker/Endpoints/{name}"
        return AwsError(
            "ModelError",
            f'Received {whose} error ({status}) from primary with message "{told}". See https://{call.region}.console.'
            f"aws.amazon.com/cloudwatch/home?region={call.region}#logEventViewer:group={group} in account {ACCOUNT} "
            "for more information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=told,
            LogStreamArn=f"arn:aws:logs:{call.region}:{ACCOUNT}:log-group:{group}",
        )


def _pending(variant: Mapping[str, Any]) -> Record:
    """Returns what DescribeEndpoint says of a variant that is not there yet."""
    told: Record = {"VariantName": variant["VariantName"], "DesiredWeight": variant["InitialVariantWeight"]}
    if "ServerlessConfig" in variant:
        return {**told, "DesiredServerlessConfig": variant["ServerlessConfig"]}
    return {
        **told, "InstanceType": variant["InstanceType"], "DesiredInstanceCount": variant["InitialInstanceCount"],
    }  # fmt: skip


def _summary(variant: Mapping[str, Any], image: str) -> Record:
    """Returns what DescribeEndpoint says of a variant."""
    told: Record = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": now()}],
        "CurrentWeight": variant["InitialVariantWeight"],
        "DesiredWeight": variant["InitialVariantWeight"],
    }
    if "ServerlessConfig" in variant:
        config = variant["ServerlessConfig"]
        return {**told, "CurrentServerlessConfig": config, "DesiredServerlessConfig": config}
    count = variant["InitialInstanceCount"]
    # The answer's description has no instance type: it stays here.
    return {
        **told, "CurrentInstanceCount": count, "DesiredInstanceCount": count, "_InstanceType": variant["InstanceType"],
    }  # fmt: skip
