"""Lambda functions: moto keeps them; here is what it does not check, and their invocation."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.awslambda.models import LambdaFunction, lambda_backends
from werkzeug.wrappers import Response

from .account import trusted_role
from .calls import ACCOUNT, AwsError, Call
from .cloud import Cloud
from .function_environment import FunctionEnvironment, FunctionSettings, Outcome

__all__ = ["Functions"]

_PAYLOAD_BYTES = 6_291_556
_UPLOAD_BYTES = 50 * 1024 * 1024
_UNZIPPED_BYTES = 262_144_000
_VARIABLES_BYTES = 4096
_RESERVED = {
    "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "_HANDLER",
}  # fmt: skip
_RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Functions:
    """The functions of all regions.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._idle: dict[tuple[str, str], list[tuple[FunctionSettings, FunctionEnvironment]]] = {}
        self._lock = threading.Lock()
        cloud.serve("lambda", {"Invoke": self._invoke})
        cloud.before["lambda", "CreateFunction"] = self._check
        cloud.before["lambda", "UpdateFunctionCode"] = self._check
        cloud.before["lambda", "UpdateFunctionConfiguration"] = self._check
        cloud.before["lambda", "AddPermission"] = self._check_statement
        cloud.after["lambda", "CreateFunction"] = self._check_size
        cloud.after["lambda", "DeleteFunction"] = self._forget
        cloud.edit["lambda", "GetFunction"] = self._hide_tags

    def find(self, region: str, name: str) -> LambdaFunction | None:
        """Returns a function by its name or ARN, or None."""
        name = re.sub(r"^arn:aws:lambda:[^:]+:\d+:function:", "", name).partition(":")[0]
        for function in lambda_backends[ACCOUNT][region].list_functions():
            if function.function_name == name:
                return function
        return None

    def run(self, region: str, function: LambdaFunction, event: bytes) -> Outcome:
        """Returns what a function answers to an event, from an idle environment or a new one."""
        settings = self._settings(region, function)
        key, environment = (region, settings.name), None
        with self._lock:
            while environment is None and self._idle.get(key):
                known, candidate = self._idle[key].pop()
                if known == settings:
                    environment = candidate
                else:
                    candidate.close()  # of a code or configuration that was
        environment = environment or FunctionEnvironment(self._cloud, settings)
        outcome = environment.invoke(event)
        if outcome.alive:
            with self._lock:
                self._idle.setdefault(key, []).append((settings, environment))
        return outcome

    def close(self, region: str | None = None) -> None:
        """Ends the environments of a region, or of all."""
        with self._lock:
            ended = [key for key in self._idle if region in (None, key[0])]
            environments = [environment for key in ended for _, environment in self._idle.pop(key)]
        for environment in environments:
            environment.close()

    def _settings(self, region: str, function: LambdaFunction) -> FunctionSettings:
        if function.run_time != _RUNTIME:
            raise AwsError("InvalidRuntimeException", f"This emulator runs {_RUNTIME}, not {function.run_time}", 502)
        code, unreadable = self._unzip(function.code_bytes or b"", function.code_sha_256)
        return FunctionSettings(
            name=function.function_name, arn=function.function_arn, region=region, handler=str(function.handler),
            role=str(function.role), memory_mb=int(function.memory_size), timeout_seconds=int(function.timeout),
            variables=dict(function.environment_vars or {}), code=code, unreadable=unreadable,
        )  # fmt: skip

    def _unzip(self, content: bytes, digest: str) -> tuple[Path, str]:
        """Returns the folder of a function's code, and a file there that Lambda's user could not read."""
        folder = self._cloud.root / "functions" / re.sub(r"\W", "_", digest)
        with zipfile.ZipFile(io.BytesIO(content)) as archive, self._lock:
            modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist() if not entry.is_dir()}
            if not folder.is_dir():
                making = folder.with_suffix(".making")
                archive.extractall(making)
                making.rename(folder)
        return folder, next((name for name, mode in modes.items() if mode and not mode & 0o004), "")

    def _check(self, call: Call) -> None:
        """Refuses what AWS refuses before it looks into the zip."""
        given = call.parameters
        if "Role" in given and not trusted_role(given["Role"], "lambda.amazonaws.com"):
            raise AwsError(
                "InvalidParameterValueException",
                "The role defined for the function cannot be assumed by Lambda.",
            )
        _check_variables(given.get("Environment", {}).get("Variables", {}))
        code = given.get("Code", given)
        if len(code.get("ZipFile") or "") * 3 // 4 > _UPLOAD_BYTES:
            raise AwsError(
                "RequestEntityTooLargeException",
                "Request must be smaller than 70167211 bytes for the CreateFunction operation",
                413,
            )
        if "S3Bucket" in code:
            content = self._cloud.storage.read(f"s3://{code['S3Bucket']}/{code['S3Key']}")
            if content is None:
                raise AwsError(
                    "InvalidParameterValueException",
                    "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key "
                    "does not exist.",
                )
            _check_unzipped(content)

    def _check_statement(self, call: Call) -> None:
        function = self.find(call.region, str(call.path_parameters["FunctionName"]))
        id = call.parameters["StatementId"]
        if function is not None and id in [statement.get("Sid") for statement in function.policy.statements]:
            raise AwsError(
                "ResourceConflictException",
                f"The statement id ({id}) provided already exists. Please provide a new statement id, or remove the "
                "existing statement.",
                409,
            )

    def _check_size(self, call: Call) -> None:
        function = self.find(call.region, call.parameters["FunctionName"])
        if function is not None and function.code_bytes:
            try:
                _check_unzipped(function.code_bytes)
            except AwsError:
                lambda_backends[ACCOUNT][call.region].delete_function(function.function_name)
                raise

    def _hide_tags(self, call: Call, answer: dict[str, Any]) -> None:
        if not self._cloud.may(call, "lambda:ListTags"):
            answer.pop("Tags", None)

    def _forget(self, call: Call) -> None:
        name = str(call.path_parameters.get("FunctionName", "")).rpartition(":")[2]
        with self._lock:
            environments = self._idle.pop((call.region, name), [])
        for _, environment in environments:
            environment.close()

    def _invoke(self, call: Call) -> Response:
        name = call.path_parameters["FunctionName"]
        function = self.find(call.region, name)
        if function is None:
            arn = f"arn:aws:lambda:{call.region}:{ACCOUNT}:function:{name}"
            raise AwsError("ResourceNotFoundException", f"Function not found: {arn}", 404)
        if len(call.body) > _PAYLOAD_BYTES:
            raise AwsError("RequestTooLargeException", f"Request must be smaller than {_PAYLOAD_BYTES} bytes", 413)
        kind = call.header("X-Amz-Invocation-Type") or "RequestResponse"
        if kind == "DryRun":
            return Response(status=204)
        if kind == "Event":
            work = threading.Thread(target=self.run, args=(call.region, function, call.body or b"{}"), daemon=True)
            work.start()
            return Response(status=202)
        outcome = self.run(call.region, function, call.body or b"{}")
        headers: dict[str, Any] = {"X-Amz-Executed-Version": "$LATEST"}
        if outcome.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        return Response(outcome.payload, 200, headers, content_type="application/json")


def _check_variables(variables: Mapping[str, str]) -> None:
    reserved = sorted(name for name in variables if name in _RESERVED)
    if reserved:
        raise AwsError(
            "InvalidParameterValueException",
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided contains reserved keys that are currently not supported for modification. Reserved keys used in "
            f"this request: {', '.join(reserved)}",
        )
    if len(json.dumps(variables, separators=(",", ":")).encode()) > _VARIABLES_BYTES:
        raise AwsError(
            "InvalidParameterValueException",
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided exceeded the 4KB limit.",
        )


def _check_unzipped(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        raise AwsError("InvalidParameterValueException", "Could not unzip uploaded file.") from None
    if size > _UNZIPPED_BYTES:
        raise AwsError("InvalidParameterValueException", f"Unzipped size must be smaller than {_UNZIPPED_BYTES} bytes")
