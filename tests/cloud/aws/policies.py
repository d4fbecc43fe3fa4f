"""IAM policies: whether a user or role may do something to something, and who is refused when that is enforced.

Simple, and on the strict side: identity policies with Allow, Deny, wildcards, NotAction and the common conditions; no
boundaries, no resource policies.
"""

from __future__ import annotations

import fnmatch
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.apigatewayv2.models import apigatewayv2_backends
from moto.iam.access_control import AssumedRoleAccessKey, CreateAccessKeyFailure, IAMUserAccessKey, create_access_key
from moto.iam.models import iam_backends
from werkzeug.wrappers import Response

from .calls import ACCOUNT, ROOT_KEY, AwsError, Call
from .cloud import Cloud

__all__ = ["Policies"]

_ALWAYS = {"sts:GetCallerIdentity"}
_PREFIX = {
    "sagemaker-runtime": "sagemaker", "service-quotas": "servicequotas", "apigatewayv2": "apigateway",
}  # fmt: skip
# How AWS names the permission where that is not the operation's name.
_ACTIONS = {
    "s3:ListObjectsV2": "s3:ListBucket", "s3:ListObjects": "s3:ListBucket", "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject", "s3:ListBuckets": "s3:ListAllMyBuckets", "s3:CopyObject": "s3:PutObject",
    "s3:CreateMultipartUpload": "s3:PutObject", "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject", "s3:ListParts": "s3:ListMultipartUploadParts",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads", "s3:DeleteObjects": "s3:DeleteObject",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "lambda:Invoke": "lambda:InvokeFunction",
}  # fmt: skip
# Which parameter names what a SageMaker call is about, and how its ARN begins.
_SAGEMAKER = {
    "TrainingJobName": "training-job", "TransformJobName": "transform-job", "EndpointName": "endpoint",
    "EndpointConfigName": "endpoint-config", "ModelName": "model", "ModelPackageGroupName": "model-package-group",
}  # fmt: skip
_ROLES = ("RoleArn", "ExecutionRoleArn", "Role")
_PASSED_TO = {"sagemaker": "sagemaker", "lambda": "lambda", "scheduler": "scheduler"}

Context = Mapping[str, str | Sequence[str]]


class Policies:
    """Decides who may do what.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        cloud.allows = self._allows
        cloud.may = self._may
        cloud.serve("iam", {"SimulatePrincipalPolicy": self._simulate})

    def enforce(self, call: Call) -> None:
        """Raises AWS's refusal where the caller may not do what it asks; only while that is switched on."""
        if not self._cloud.settings.enforce_iam or call.access_key == ROOT_KEY:
            return
        if not call.access_key:
            raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
        caller, documents = self._caller(call)
        for action, resource, context in _asked(call):
            tags = {f"aws:ResourceTag/{key}": value for key, value in self._cloud.tags.of(resource).items()}
            known = {**context, **tags, "aws:RequestedRegion": call.region, "aws:SecureTransport": "true"}
            if action not in _ALWAYS and _decide(documents, action, resource, known) != "allowed":
                raise _refused(call, caller, action, resource)

    def _may(self, call: Call, action: str) -> bool:
        if not self._cloud.settings.enforce_iam or call.access_key == ROOT_KEY:
            return True
        _, documents = self._caller(call)
        return _decide(documents, action, _resource(call), {"aws:RequestedRegion": call.region}) == "allowed"

    def _allows(self, role: str, action: str, resource: str) -> bool:
        if not self._cloud.settings.enforce_iam:
            return True
        return _decide(list(_documents(role)), action, resource, {}) == "allowed"

    def _caller(self, call: Call) -> tuple[str, list[dict[str, Any]]]:
        headers = {"X-Amz-Security-Token": token} if (token := call.header("X-Amz-Security-Token")) else {}
        try:
            key = create_access_key(ACCOUNT, "aws", call.access_key, headers)
        except CreateAccessKeyFailure:
            code = "InvalidAccessKeyId" if call.service == "s3" else "UnrecognizedClientException"
            message = "The security token included in the request is invalid."
            raise AwsError(code, message, 403) from None
        assert isinstance(key, IAMUserAccessKey | AssumedRoleAccessKey)
        return str(key.arn), [_document(policy) for policy in key.collect_policies()]

    def _simulate(self, call: Call) -> Response:
        # The form's lists are spelled ActionNames.member.1 and so on.
        form = parse_qs(call.body.decode())
        listed: Callable[[str], list[str]] = lambda name: [  # noqa: E731
            values[0] for key, values in form.items() if re.fullmatch(rf"{name}\.member\.\d+", key)
        ]
        source = form["PolicySourceArn"][0]
        documents = list(_documents(source))
        context: dict[str, Sequence[str]] = {}
        for number in range(1, 21):
            entry = f"ContextEntries.member.{number}"
            if f"{entry}.ContextKeyName" in form:
                values = [value[0] for key, value in form.items() if key.startswith(f"{entry}.ContextKeyValues")]
                context[form[f"{entry}.ContextKeyName"][0]] = values
        results = [
            f"<member><EvalActionName>{action}</EvalActionName><EvalResourceName>{resource}</EvalResourceName>"
            f"<EvalDecision>{_decide(documents, action, resource, context)}</EvalDecision>"
            "<MatchedStatements/><MissingContextValues/></member>"
            for action in listed("ActionNames")
            for resource in listed("ResourceArns") or ["*"]
        ]
        return Response(
            '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
            "<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults>"
            f"{''.join(results)}</EvaluationResults></SimulatePrincipalPolicyResult><ResponseMetadata>"
            "<RequestId>0</RequestId></ResponseMetadata></SimulatePrincipalPolicyResponse>",
            content_type="text/xml",
        )


# -- what a call asks for ---------------------------------------------------------------------------------------------


def _asked(call: Call) -> Iterator[tuple[str, str, Context]]:
    """Yields the permissions that a call needs: the action, its resource, and what conditions may look at."""
    service = _PREFIX.get(call.service, call.service)
    if service == "apigateway":
        action = f"apigateway:{call.environ['REQUEST_METHOD']}"
        path = call.target.removeprefix("/v2")
        asked = {f"aws:RequestTag/{key}": value for key, value in (call.parameters.get("tags") or {}).items()}
        api = apigatewayv2_backends[ACCOUNT][call.region].apis.get(path.removeprefix("/apis/"))
        has = {f"aws:ResourceTag/{key}": value for key, value in (api.backend.get_tags(api.arn) if api else {}).items()}
        yield action, f"arn:aws:apigateway:{call.region}::{path}", {**asked, **has}
        return
    action = f"{service}:{call.operation}"
    context: dict[str, str | Sequence[str]] = {}
    tags = call.parameters.get("Tags")
    if isinstance(tags, list):
        context |= {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tags}
        context["aws:TagKeys"] = [tag["Key"] for tag in tags]
    if call.service == "s3":
        prefix = parse_qs(call.environ.get("QUERY_STRING", "")).get("prefix")
        context |= {"s3:prefix": prefix} if prefix else {}
    if action == "lambda:AddPermission":
        context["lambda:Principal"] = call.parameters["Principal"]
    if service == "application-autoscaling":
        context["application-autoscaling:service-namespace"] = call.parameters["ServiceNamespace"]
    if action == "s3:DeleteObjects":
        for key in re.findall(r"<Key>(.*?)</Key>", call.body.decode(errors="replace")):
            yield "s3:DeleteObject", f"{_resource(call)}/{html.unescape(key)}", context
        return
    yield _ACTIONS.get(action, action), _resource(call), context
    if isinstance(tags, list) and tags and service == "sagemaker" and call.operation != "AddTags":
        yield "sagemaker:AddTags", _resource(call), {**context, "sagemaker:TaggingAction": call.operation}
    if service == "lambda" and call.operation == "CreateFunction" and tags:
        yield "lambda:TagResource", _resource(call), context
    for name in _ROLES:
        role = call.parameters.get(name) or (call.parameters.get("Target") or {}).get(name, "")
        if isinstance(role, str) and role.startswith("arn:aws:iam::") and service in _PASSED_TO:
            yield "iam:PassRole", role, {"iam:PassedToService": f"{_PASSED_TO[service]}.amazonaws.com"}


def _resource(call: Call) -> str:
    given, region = call.parameters, call.region
    if call.service == "s3":
        return "arn:aws:s3:::" + unquote(call.target.strip("/")) if call.target.strip("/") else "*"
    if call.service == "sagemaker-runtime":
        return f"arn:aws:sagemaker:{region}:{ACCOUNT}:endpoint/{str(call.path_parameters.get('EndpointName')).lower()}"
    if call.service == "sagemaker":
        if "ResourceArn" in given:
            return str(given["ResourceArn"])
        for name in ("ModelPackageName", "ModelPackageArn"):
            if str(given.get(name, "")).startswith("arn:"):
                return str(given[name])
        if call.operation.startswith("List"):
            return "*"
        # The thing itself first: CreateEndpoint names its configuration too.
        for name in sorted(_SAGEMAKER, key=lambda name: not call.operation.endswith(name.removesuffix("Name"))):
            if isinstance(given.get(name), str):
                return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{_SAGEMAKER[name]}/{given[name].lower()}"
    if call.service == "logs" and "logGroupName" in given:
        stream = given.get("logStreamName", "*" if "Stream" in call.operation or "Events" in call.operation else "")
        suffix = f":log-stream:{stream}" if stream else ""
        return f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{given['logGroupName']}{suffix}"
    if call.service == "lambda":
        function = call.path_parameters.get("FunctionName") or given.get("FunctionName")
        if isinstance(function, str):
            return function if function.startswith("arn:") else f"arn:aws:lambda:{region}:{ACCOUNT}:function:{function}"
        return unquote(str(call.path_parameters.get("Resource", "*")))
    if call.service == "ssm" and "Name" in given:
        return f"arn:aws:ssm:{region}:{ACCOUNT}:parameter/{given['Name'].lstrip('/')}"
    if call.service == "scheduler" and "Name" in call.path_parameters:
        group = given.get("GroupName", "default")
        return f"arn:aws:scheduler:{region}:{ACCOUNT}:schedule/{group}/{call.path_parameters['Name']}"
    if call.service == "application-autoscaling":
        return f"arn:aws:application-autoscaling:{region}:{ACCOUNT}:scalable-target/0"
    if call.service == "iam" and "PolicySourceArn" in given:
        return str(given["PolicySourceArn"])
    if call.service == "iam" and "RoleName" in given:
        return f"arn:aws:iam::{ACCOUNT}:role/{given['RoleName']}"
    return "*"


def _refused(call: Call, caller: str, action: str, resource: str) -> AwsError:
    code = "AccessDenied" if call.service in ("s3", "iam", "sts") else "AccessDeniedException"
    message = (
        f"User: {caller} is not authorized to perform: {action} on resource: {resource} because no identity-based "
        f"policy allows the {action} action"
    )
    return AwsError(code, message, 400 if call.service in ("sagemaker", "logs", "ssm") else 403)


# -- what policies say ------------------------------------------------------------------------------------------------


def _documents(arn: str) -> Iterator[dict[str, Any]]:
    """Yields the policies of a user or role."""
    iam, name = iam_backends[ACCOUNT]["aws"], arn.rpartition("/")[2]
    if ":assumed-role/" in arn:
        arn, name = arn.replace(":assumed-role/", ":role/"), arn.split("/")[1]
    if ":role/" in arn:
        if name not in [role.name for role in iam.get_roles()]:
            raise AwsError("NoSuchEntity", f"The role with name {name} cannot be found.", 404)
        role = iam.get_role(name)
        yield from map(_document, role.policies.values())
        yield from map(_document, role.managed_policies.values())
    elif ":user/" in arn:
        user = iam.get_user(name)
        yield from (_document(policy) for policy in user.policies.values())
        yield from map(_document, user.managed_policies.values())
    else:
        yield {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}  # the account itself


def _document(policy: Any) -> dict[str, Any]:
    """Returns a policy's document, of any of the forms in which moto keeps it."""
    if hasattr(policy, "versions"):
        policy = next(version.document for version in policy.versions if version.is_default)
    elif isinstance(policy, dict) and "policy_document" in policy:
        policy = policy["policy_document"]
    if isinstance(policy, str):
        policy = json.loads(unquote(policy) if policy.startswith("%") else policy)
    found: dict[str, Any] = policy
    return found


def _decide(documents: Sequence[Mapping[str, Any]], action: str, resource: str, context: Context) -> str:
    decision = "implicitDeny"
    for document in documents:
        for statement in _listed(document["Statement"]):
            if _applies(statement, action, resource, context):
                if statement["Effect"] == "Deny":
                    return "explicitDeny"
                decision = "allowed"
    return decision


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Context) -> bool:
    if "Action" in statement:
        if not any(_like(action, pattern, fold=True) for pattern in _listed(statement["Action"])):
            return False
    elif any(_like(action, pattern, fold=True) for pattern in _listed(statement["NotAction"])):
        return False
    if "Resource" in statement and not any(_like(resource, pattern) for pattern in _listed(statement["Resource"])):
        return False
    return all(
        _holds(operator, _listed(wanted), context.get(key))
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _holds(operator: str, wanted: Sequence[str], given: str | Sequence[str] | None) -> bool:
    every = operator.startswith("ForAllValues:")
    name = operator.rpartition(":")[2].removesuffix("IfExists")
    if name == "Null":
        return (given is None) == (str(wanted[0]).lower() == "true")
    if given is None:
        return every or operator.endswith("IfExists")
    if every:
        return all(_holds(name, wanted, value) for value in ([given] if isinstance(given, str) else given))
    values = [given] if isinstance(given, str) else list(given)
    if name in ("StringEquals", "ArnEquals", "Bool"):
        return any(value in map(str, wanted) for value in values)
    if name == "StringNotEquals":
        return not any(value in wanted for value in values)
    if name in ("StringLike", "ArnLike"):
        return any(_like(value, pattern) for value in values for pattern in wanted)
    raise AwsError("NotImplemented", f"This emulator does not know the condition {operator}")


def _like(value: str, pattern: str, *, fold: bool = False) -> bool:
    pattern = pattern.replace("[", "[[]")
    return fnmatch.fnmatchcase(value.lower(), pattern.lower()) if fold else fnmatch.fnmatchcase(value, pattern)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
