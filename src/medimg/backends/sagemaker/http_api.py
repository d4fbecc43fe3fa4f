"""An HTTP address in front of a function: the function, its HTTP API and its key, made and deleted together."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.sagemaker.schedules import Deletion
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, EndpointError, NotFoundError

__all__ = ["Address", "HttpApis"]

_ROUTES = (
    "GET /", "GET /model", "GET /page/{file}", "GET /ping", "POST /", "POST /predict", "POST /session",
    "DELETE /session",
)  # fmt: skip
_TIMEOUT_SECONDS = 29  # an HTTP API gives up after 30
_REQUESTS_A_SECOND = 50.0  # what one address takes: a runaway client must not run up a bill
_ACTIVE_SECONDS = 180.0


@dataclass(frozen=True)
class Address:
    """An HTTP API that leads to nothing yet.

    Attributes:
        id: Of the HTTP API.
        url: Where it answers.
    """

    id: str
    url: str


class HttpApis:
    """The HTTP APIs of an account, each in front of one function `medimg-NAME`.

    Args:
        account: Whose.
        logs: Where they log.
    """

    poll_seconds = 1.0

    def __init__(self, account: Account, logs: Logs) -> None:
        self._account = account
        self._logs = logs
        self._keys: dict[str, str] = {}

    # -- names --------------------------------------------------------------------------------------------------------

    @staticmethod
    def function(name: str) -> str:
        """Returns the name of an endpoint's function and HTTP API."""
        return f"medimg-{name}"

    @staticmethod
    def key_parameter(name: str) -> str:
        """Returns the name under which an endpoint's key is kept in Systems Manager, encrypted."""
        return f"/medimg/endpoints/{name}/key"

    def key_command(self, name: str, auth: str) -> str:
        """Returns the shell command that prints an endpoint's key; "" where none is asked for."""
        if auth != "key":
            return ""
        return (
            f"aws ssm get-parameter --region {self._account.region} --name {self.key_parameter(name)} "
            "--with-decryption --query Parameter.Value --output text"
        )

    # -- making -------------------------------------------------------------------------------------------------------

    def reserve(self, name: str) -> Address:
        """Makes the HTTP API, so that its address is known; it costs nothing."""
        with translated(f"making the HTTP API of {name!r}"):
            answer = self._account.client("apigatewayv2").create_api(
                Name=self.function(name), ProtocolType="HTTP", Tags=self._tags()
            )
        return Address(answer["ApiId"], answer["ApiEndpoint"])

    def open(
        self,
        name: str,
        address: Address,
        config: ServeConfig,
        *,
        key: str,
        handler: str,
        runtime: str,
        memory_mb: int,
        environment: Mapping[str, str],
    ) -> None:
        """Makes the function and its key, waits until it is active, and lets the HTTP API lead to it.

        Args:
            name: Of the endpoint.
            address: Its HTTP API.
            config: How it is served.
            key: Of the function's zip, in the bucket.
            handler: "module.function" in the zip.
            runtime: Such as "python3.12".
            memory_mb: Of the function; its share of CPU follows from it.
            environment: Variables of the function.

        Raises:
            AlreadyExistsError: There is a function of that name, and another made it.
            EndpointError: The function does not start.
        """
        secret = secrets.token_urlsafe(32) if config.auth == "key" else ""
        variables = {
            **environment,
            "MEDIMG_AUTH": config.auth,
            "MEDIMG_KEY_HASH": hashlib.sha256(secret.encode()).hexdigest() if secret else "",
            "MEDIMG_URL_HOSTS": ",".join(config.url_hosts),
        }
        account, function = self._account, self.function(name)
        try:
            with translated(f"making the function {function!r}"):
                arn = account.client("lambda").create_function(
                    FunctionName=function,
                    Runtime=runtime,
                    Role=account.lambda_role_arn,
                    Handler=handler,
                    Code={"S3Bucket": account.bucket, "S3Key": f"{account.prefix}/{key}"},
                    Description=f"The medimg endpoint {name}",
                    Timeout=_TIMEOUT_SECONDS,
                    MemorySize=memory_mb,
                    Environment={"Variables": variables},
                    Tags=self._tags(),
                    Architectures=["x86_64"],
                    **({} if account.kms_key is None else {"KMSKeyArn": account.kms_key}),
                )["FunctionArn"]
        except AlreadyExistsError:
            with translated(f"looking for the function {function!r}"):
                found = account.client("lambda").get_function_configuration(FunctionName=function)
            # Where the answer to a first request was lost, the second meets our own function.
            if found.get("Environment", {}).get("Variables", {}).get("MEDIMG_URL") != address.url:
                raise
            arn = found["FunctionArn"]
        if secret:
            # Only now that the name is ours: another's key must not be written over.
            self._keep_key(name, secret)
        self._wait_until_active(name)
        self._connect(name, address, arn)

    def _wait_until_active(self, name: str) -> None:
        deadline = time.monotonic() + _ACTIVE_SECONDS
        while True:
            with translated(f"looking for the function of {name!r}"):
                found = self._account.client("lambda").get_function_configuration(FunctionName=self.function(name))
            if found.get("State", "Active") == "Active":
                return
            if found["State"] == "Failed" or time.monotonic() > deadline:
                raise EndpointError(
                    f"the function of {name!r} does not start ({found.get('StateReason', found['State'])})"
                )
            time.sleep(self.poll_seconds)

    def _connect(self, name: str, address: Address, function_arn: str) -> None:
        api, account, done = self._account.client("apigatewayv2"), self._account, suppress(AlreadyExistsError)
        what = f"connecting the HTTP API of {name!r}"
        with translated(what):
            integration = api.create_integration(
                ApiId=address.id, IntegrationType="AWS_PROXY", IntegrationUri=function_arn,
                PayloadFormatVersion="2.0", TimeoutInMillis=_TIMEOUT_SECONDS * 1000,
            )  # fmt: skip
        for route in _ROUTES:
            with done, translated(what):
                target = f"integrations/{integration['IntegrationId']}"
                api.create_route(ApiId=address.id, RouteKey=route, Target=target)
        limits = {"ThrottlingRateLimit": _REQUESTS_A_SECOND, "ThrottlingBurstLimit": int(2 * _REQUESTS_A_SECOND)}
        with done, translated(what):
            api.create_stage(ApiId=address.id, StageName="$default", AutoDeploy=True, DefaultRouteSettings=limits)
        with done, translated(what):
            account.client("lambda").add_permission(
                FunctionName=self.function(name),
                StatementId="http-api",
                Action="lambda:InvokeFunction",
                Principal="apigateway.amazonaws.com",
                SourceArn=f"arn:{account.partition}:execute-api:{account.region}:{account.id}:{address.id}/*",
            )

    def _keep_key(self, name: str, key: str) -> None:
        encryption = {} if self._account.kms_key is None else {"KeyId": self._account.kms_key}
        with translated(f"keeping the key of {name!r}"):
            self._account.client("ssm").put_parameter(
                Name=self.key_parameter(name), Value=key, Type="SecureString", Overwrite=True, **encryption
            )
        self._keys[name] = key

    def key(self, name: str) -> str:
        """Returns an endpoint's key, asked of AWS once."""
        if name not in self._keys:
            with translated(f"fetching the key of {name!r}"):
                answer = self._account.client("ssm").get_parameter(Name=self.key_parameter(name), WithDecryption=True)
            self._keys[name] = answer["Parameter"]["Value"]
        return self._keys[name]

    def forget_key(self, name: str) -> None:
        """Has the key asked anew: another process may have deployed the endpoint again."""
        self._keys.pop(name, None)

    # -- ending -------------------------------------------------------------------------------------------------------

    def deletions(self, name: str, address: Address) -> list[Deletion]:
        """Returns what a schedule must delete."""
        return [
            Deletion("lambda", "deleteFunction", {"FunctionName": self.function(name)}),
            Deletion("apigatewayv2", "deleteApi", {"ApiId": address.id}, 30),
            Deletion("ssm", "deleteParameter", {"Name": self.key_parameter(name)}, 60),
        ]

    def forget(self, address: Address) -> None:
        """Deletes an HTTP API that leads to nothing."""
        with suppress(NotFoundError), translated("deleting an HTTP API"):
            self._account.client("apigatewayv2").delete_api(ApiId=address.id)

    def close(self, name: str) -> None:
        """Deletes the function, its HTTP APIs, its key and its log; what is not there is no error."""
        with suppress(NotFoundError), translated(f"deleting the function of {name!r}"):
            self._account.client("lambda").delete_function(FunctionName=self.function(name))
        for id, owner in self.apis():
            if owner == name:
                with suppress(NotFoundError), translated(f"deleting the HTTP API of {name!r}"):
                    self._account.client("apigatewayv2").delete_api(ApiId=id)
        with suppress(NotFoundError), translated(f"deleting the key of {name!r}"):
            self._account.client("ssm").delete_parameter(Name=self.key_parameter(name))
        self.forget_key(name)
        self._logs.delete(f"/aws/lambda/{self.function(name)}")

    def apis(self) -> list[tuple[str, str]]:
        """Returns the HTTP APIs of ours: id and the name of the endpoint."""
        with translated("listing the HTTP APIs"):
            pages = self._account.client("apigatewayv2").get_paginator("get_apis").paginate()
            return [
                (api["ApiId"], api["Name"].removeprefix("medimg-"))
                for page in pages
                for api in page["Items"]
                if api.get("Tags", {}).get("medimg") == self._account.prefix and api["Name"].startswith("medimg-")
            ]

    def _tags(self) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self._account.tag_list()}
