"""The least that medimg needs at AWS, as data: who may do what, on what, for which verb and why.

What has a name of ours is confined by its name; jobs, models and endpoints, which carry the user's names, by the tag
`medimg`. Reading is not confined by tag: AWS answers "denied" and not "does not exist" to a question about a thing that
is not there, because such a thing has no tag, and medimg must be able to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from medimg.backends.sagemaker.account import EXECUTION_ROLE, LAMBDA_ROLE, SCHEDULER_ROLE
from medimg.backends.sagemaker.grants import Document, Grant, Role, Scope, policy

__all__ = [
    "BUCKET_MAKER",
    "KEY",
    "ROLES",
    "SERVE_POLICY",
    "TRAIN_POLICY",
    "USER",
    "role_policy",
    "user_policies",
]


def _sagemaker(*kinds: str) -> tuple[str, ...]:
    return tuple(f"arn:{{p}}:sagemaker:{{r}}:{{a}}:{kind}/*" for kind in kinds)


# A project of its own may be kept under PREFIX/NAME: the same roles serve it.
_OURS = ("{prefix}", "{prefix}/*")
_TAGGED = {"StringLike": {"aws:ResourceTag/medimg": _OURS}}  # it has our tag
_TAGGING = {"StringLike": {"aws:RequestTag/medimg": _OURS}}  # it is being given our tag
_OBJECTS = ("arn:{p}:s3:::{bucket}/{prefix}/*",)
_BUCKETS = ("arn:{p}:s3:::{bucket}",)
_FUNCTIONS = ("arn:{p}:lambda:{r}:{a}:function:medimg-*",)
_SCALED = ("arn:{p}:application-autoscaling:{r}:{a}:scalable-target/*",)
_OF_SAGEMAKER = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}
_ALARMS = ("arn:{p}:cloudwatch:{r}:{a}:alarm:TargetTracking-endpoint/*",)
_NO_RESOURCES = "the service has no resources for this action"
_HTTP = ("deploy(kind='lambda')", "deploy(http_api=True)")
_TTL = ("deploy(ttl_hours=…)",)
_ALL = ("train", "predict_batch", "register", "deploy", "cleanup")

# Two, because AWS allows 6,144 characters in one; and who only trains needs only the first.
TRAIN_POLICY = "medimg-user"
SERVE_POLICY = "medimg-user-serve"

# -- the person who uses medimg ---------------------------------------------------------------------------------------

_TRAIN = (
    Grant(
        "Bucket", _ALL, ("s3:GetBucketPublicAccessBlock", "s3:ListBucket"), _BUCKETS,
        "see what is there, and that the bucket is closed to the public before anything is put into it",
    ),
    Grant(
        "Objects", _ALL,
        ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"), _OBJECTS,
        "upload images, code and models; download results; delete what is no longer needed",
    ),
    Grant(
        "Submit", ("train", "predict_batch"), ("sagemaker:CreateTrainingJob",), _sagemaker("training-job"),
        "start a job, with our tag", _TAGGING,
    ),
    Grant(
        "TagWhatIsMade", ("train", "predict_batch", "register", "deploy"), ("sagemaker:AddTags",),
        _sagemaker("training-job", "model", "endpoint", "endpoint-config", "model-package-group"),
        "give our tag to what is being made; not to what is there already",
        {
            **_TAGGING,
            "StringEquals": {
                "sagemaker:TaggingAction": (
                    "CreateTrainingJob", "CreateModel", "CreateEndpoint", "CreateEndpointConfig",
                    "CreateModelPackageGroup",
                )
            },
        },
    ),
    Grant(
        "PassExecutionRole", ("train", "predict_batch", "deploy"), ("iam:PassRole",),
        (f"arn:{{p}}:iam::{{a}}:role/{EXECUTION_ROLE}",), "let jobs and endpoints run as the execution role",
        {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
    ),
    Grant(
        "ReadJobs", ("train", "predict_batch", "job", "jobs", "cleanup"), ("sagemaker:DescribeTrainingJob",),
        _sagemaker("training-job"), "status, times and reasons of jobs",
    ),
    Grant(
        "EndJobs", ("job.cancel", "cleanup"), ("sagemaker:DeleteTrainingJob", "sagemaker:StopTrainingJob"),
        _sagemaker("training-job"), "stop and delete jobs of ours", _TAGGED,
    ),
    Grant(
        "List", ("train", "jobs", "models", "endpoints", "inventory", "cleanup"),
        (
            "sagemaker:ListEndpointConfigs", "sagemaker:ListEndpoints", "sagemaker:ListModelPackageGroups",
            "sagemaker:ListModelPackages", "sagemaker:ListModels", "sagemaker:ListTrainingJobs",
        ),
        ("*",), "find what is ours after the notebook is gone", unconfined=_NO_RESOURCES,
    ),
    Grant(
        "ReadTags", ("register", "models", "endpoints", "cleanup"), ("sagemaker:ListTags",),
        _sagemaker("endpoint", "endpoint-config", "model", "model-package-group"), "tell what is ours by its tag",
    ),
    Grant(
        "ReadLogs", ("train", "job.logs", "endpoint.logs"), ("logs:DescribeLogStreams", "logs:GetLogEvents"),
        (
            "arn:{p}:logs:{r}:{a}:log-group:/aws/sagemaker/*", "arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/medimg-*",
        ),
        "progress and metrics while a job runs; why something failed",
    ),
    Grant(
        "DeleteLogs", ("job.delete", "endpoint.delete", "cleanup"), ("logs:DeleteLogGroup", "logs:DeleteLogStream"),
        (
            "arn:{p}:logs:{r}:{a}:log-group:/aws/sagemaker/TrainingJobs:log-stream:*",
            "arn:{p}:logs:{r}:{a}:log-group:/aws/sagemaker/Endpoints/*",
            "arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/medimg-*",
        ),
        "leave no log of what was deleted",
    ),
)  # fmt: skip

_REGISTER = (
    Grant(
        "MakeModelGroups", ("register",), ("sagemaker:CreateModelPackageGroup",), _sagemaker("model-package-group"),
        "make the place of a model's versions, with our tag", _TAGGING,
    ),
    Grant(
        "Register", ("register", "models", "model.delete"),
        ("sagemaker:CreateModelPackage", "sagemaker:DeleteModelPackage", "sagemaker:DescribeModelPackage"),
        _sagemaker("model-package", "model-package-group"),
        "add, read and delete versions; a version has no tags of its own to confine this by",
    ),
    Grant(
        "DeleteModelGroups", ("cleanup",), ("sagemaker:DeleteModelPackageGroup",), _sagemaker("model-package-group"),
        "delete groups of ours that are empty", _TAGGED,
    ),
)  # fmt: skip

_SERVE = (
    Grant(
        "MakeEndpoints", ("deploy",),
        ("sagemaker:CreateEndpoint", "sagemaker:CreateEndpointConfig", "sagemaker:CreateModel"),
        _sagemaker("endpoint", "endpoint-config", "model"), "serve a model, with our tag", _TAGGING,
    ),
    Grant(
        "ReadEndpoints", ("deploy", "endpoint", "endpoints", "cleanup"),
        ("sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModel"),
        _sagemaker("endpoint", "endpoint-config", "model"), "status and settings of endpoints",
    ),
    Grant(
        "ChangeEndpoints", ("endpoint.update", "endpoint.delete", "cleanup"),
        (
            "sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel",
            "sagemaker:UpdateEndpoint",
        ),
        _sagemaker("endpoint", "endpoint-config", "model"), "update and delete endpoints of ours", _TAGGED,
    ),
    Grant(
        "Ask", ("endpoint.predict", "endpoint.predict_many"), ("sagemaker:InvokeEndpoint",), _sagemaker("endpoint"),
        "send images to endpoints of ours", _TAGGED,
    ),
    Grant(
        "Scale", ("deploy(max_instances=…)", "endpoint.delete"),
        (
            "application-autoscaling:DeregisterScalableTarget", "application-autoscaling:PutScalingPolicy",
            "application-autoscaling:RegisterScalableTarget",
        ),
        _SCALED, "let an endpoint have more machines under load; every deletion asks to end it", _OF_SAGEMAKER,
    ),
    Grant(
        "ScalingAlarms", ("deploy(max_instances=…)",),
        (
            "cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm",
            "sagemaker:UpdateEndpointWeightsAndCapacities",
        ),
        (*_ALARMS, *_sagemaker("endpoint")),
        "scaling watches the load by alarms that it makes in the caller's name",
    ),
    Grant(
        "ScalingRole", ("deploy(max_instances=…)",), ("iam:CreateServiceLinkedRole",),
        (
            "arn:{p}:iam::{a}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
            "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint",
        ),
        "the first endpoint of an account that scales",
        {"StringEquals": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
    ),
)  # fmt: skip

_LOOK = (
    Grant(
        "Prices", ("estimate", "job.cost"), ("pricing:GetProducts",), ("*",), "AWS's price list",
        unconfined=_NO_RESOURCES,
    ),
    Grant(
        "Quotas", ("doctor",), ("servicequotas:ListServiceQuotas",), ("*",),
        "whether the account may use the machine that a job asks for", unconfined=_NO_RESOURCES,
    ),
    Grant(
        "ReadRoles", ("deploy(ttl_hours=…)", "doctor"), ("iam:GetRole", "iam:SimulatePrincipalPolicy"),
        tuple(f"arn:{{p}}:iam::{{a}}:role/{role}" for role in (EXECUTION_ROLE, LAMBDA_ROLE, SCHEDULER_ROLE)),
        "whether the roles are there, whom they trust, and what they may do",
    ),
    Grant(
        "ReadMyself", ("doctor",), ("iam:SimulatePrincipalPolicy",), ("arn:{p}:iam::{a}:user/${{aws:username}}",),
        "what one's own user may do",
    ),
)  # fmt: skip

_FRONT = (
    Grant(
        "Functions", _HTTP,
        (
            "lambda:CreateFunction", "lambda:DeleteFunction", "lambda:GetFunction", "lambda:GetFunctionConfiguration",
            "lambda:ListTags", "lambda:TagResource",
        ),
        _FUNCTIONS, "make, look at and delete functions named medimg-ENDPOINT",
    ),
    Grant(
        "OpenFunctions", _HTTP, ("lambda:AddPermission",), _FUNCTIONS, "let the HTTP API, and nobody else, call it",
        {"StringEquals": {"lambda:Principal": "apigateway.amazonaws.com"}},
    ),
    Grant(
        "ListFunctions", (*_HTTP, "endpoints", "cleanup"), ("lambda:ListFunctions",), ("*",),
        "find the Lambda endpoints", unconfined=_NO_RESOURCES,
    ),
    Grant(
        "PassLambdaRole", _HTTP, ("iam:PassRole",), (f"arn:{{p}}:iam::{{a}}:role/{LAMBDA_ROLE}",),
        "let functions run as the Lambda role", {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}},
    ),
    Grant(
        "MakeHttpApis", _HTTP, ("apigateway:POST", "apigateway:TagResource"),
        ("arn:{p}:apigateway:{r}::/apis", "arn:{p}:apigateway:{r}::/tags/*"), "make an HTTP API, with our tag",
        _TAGGING,
    ),
    Grant(
        "ConnectHttpApis", _HTTP, ("apigateway:POST",),
        tuple(f"arn:{{p}}:apigateway:{{r}}::/apis/*/{part}" for part in ("integrations", "routes", "stages")),
        "lead the HTTP API to its function; parts of an HTTP API do not inherit its tags to confine this by",
    ),
    Grant(
        "ReadHttpApis", (*_HTTP, "cleanup"), ("apigateway:GET",), ("arn:{p}:apigateway:{r}::/apis",),
        "find the HTTP APIs of ours",
    ),
    Grant(
        "DeleteHttpApis", ("endpoint.delete", "cleanup"), ("apigateway:DELETE",), ("arn:{p}:apigateway:{r}::/apis/*",),
        "delete HTTP APIs of ours", _TAGGED,
    ),
    Grant(
        "Keys", (*_HTTP, "endpoint.predict"), ("ssm:DeleteParameter", "ssm:GetParameter", "ssm:PutParameter"),
        ("arn:{p}:ssm:{r}:{a}:parameter/medimg/endpoints/*",), "keep the API keys of endpoints, encrypted",
    ),
    Grant(
        "Schedules", (*_TTL, "endpoint.delete"), ("scheduler:CreateSchedule", "scheduler:DeleteSchedule"),
        ("arn:{p}:scheduler:{r}:{a}:schedule/default/medimg-*",), "let an endpoint end when its time is up",
    ),
    Grant(
        "ListSchedules", (*_TTL, "endpoint.delete", "cleanup"), ("scheduler:ListSchedules",), ("*",),
        "find the schedules of an endpoint", unconfined=_NO_RESOURCES,
    ),
    Grant(
        "PassSchedulerRole", _TTL, ("iam:PassRole",), (f"arn:{{p}}:iam::{{a}}:role/{SCHEDULER_ROLE}",),
        "let schedules delete as the scheduler's role",
        {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}},
    ),
)  # fmt: skip

KEY: tuple[Grant, ...] = (
    Grant(
        "Key", _ALL, ("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"), ("{key}",),
        "read and write what is encrypted with your key",
    ),
    Grant(
        "LendKey", ("train", "predict_batch", "deploy"), ("kms:CreateGrant",), ("{key}",),
        "let AWS encrypt the disks of jobs and endpoints with your key",
        {"Bool": {"kms:GrantIsForAWSResource": "true"}},
    ),
)  # fmt: skip

USER: Mapping[str, tuple[Grant, ...]] = {
    TRAIN_POLICY: (*_TRAIN, *_REGISTER, *_LOOK),
    SERVE_POLICY: (*_SERVE, *_FRONT),
}

BUCKET_MAKER = Grant(
    "MakeBucket", ("backend(create_bucket=True)",),
    (
        "s3:CreateBucket", "s3:PutBucketPublicAccessBlock", "s3:PutBucketTagging", "s3:PutEncryptionConfiguration",
        "s3:PutLifecycleConfiguration",
    ),
    _BUCKETS, "make the bucket in the user's name; not needed where bootstrap has made it, and in no policy",
)  # fmt: skip

# -- the roles --------------------------------------------------------------------------------------------------------


_SAGEMAKER_LOGS = ("arn:{p}:logs:{r}:{a}:log-group:/aws/sagemaker/*",)
_LAMBDA_LOGS = ("arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/medimg-*",)

ROLES: Mapping[str, Role] = {
    EXECUTION_ROLE: Role(
        "sagemaker.amazonaws.com",
        "What training jobs and endpoints of medimg may do",
        (
            Grant(
                "Bucket", ("train", "deploy"), ("s3:GetBucketLocation", "s3:ListBucket"), _BUCKETS,
                "find the images, code and model",
            ),
            Grant(
                "Objects", ("train", "deploy"),
                ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"), _OBJECTS,
                "read images, code and models; write checkpoints and results",
            ),
            Grant(
                "Images", ("train", "deploy"),
                ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
                (
                    "arn:{p}:ecr:*:*:repository/tensorflow-inference", "arn:{p}:ecr:*:*:repository/tensorflow-training",
                    "arn:{p}:ecr:{r}:{a}:repository/*",
                ),
                "pull AWS's TensorFlow images, which are in accounts of AWS, or an image of your own",
            ),
            Grant(
                "ImageLogin", ("train", "deploy"), ("ecr:GetAuthorizationToken",), ("*",), "pull images",
                unconfined=_NO_RESOURCES,
            ),
            Grant(
                "Logs", ("train", "deploy"),
                ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
                _SAGEMAKER_LOGS, "write the log",
            ),
            Grant(
                "Metrics", ("train", "deploy"), ("cloudwatch:PutMetricData",), ("*",), "write the metrics",
                {"StringLike": {"cloudwatch:namespace": ("*SageMaker*", "*sagemaker*")}},
                unconfined="metrics have no resources; confined by their namespace",
            ),
        ),
    ),
    LAMBDA_ROLE: Role(
        "lambda.amazonaws.com",
        "What functions of medimg may do",
        (
            Grant(
                "Logs", _HTTP, ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"), _LAMBDA_LOGS,
                "write the log",
            ),
            Grant(
                "Ask", ("deploy(http_api=True)",), ("sagemaker:InvokeEndpoint",), _sagemaker("endpoint"),
                "pass an image on to the endpoint behind it", _TAGGED,
            ),
        ),
        from_account=False,  # Lambda does not say for which account it asks
    ),
    SCHEDULER_ROLE: Role(
        "scheduler.amazonaws.com",
        "Deletes endpoints of medimg when their time is up",
        (
            Grant(
                "EndEndpoints", _TTL,
                ("sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel"),
                _sagemaker("endpoint", "endpoint-config", "model"), "delete an endpoint with its model", _TAGGED,
            ),
            Grant(
                "EndScaling", _TTL, ("application-autoscaling:DeregisterScalableTarget",), _SCALED,
                "end its scaling, which would outlive it", _OF_SAGEMAKER,
            ),
            Grant(
                "EndScalingAlarms", _TTL, ("cloudwatch:DeleteAlarms",), _ALARMS,
                "the alarms of that scaling go in the name of who ends it",
            ),
            Grant("EndFunctions", _TTL, ("lambda:DeleteFunction",), _FUNCTIONS, "delete a function"),
            Grant(
                "EndHttpApis", _TTL, ("apigateway:DELETE",), ("arn:{p}:apigateway:{r}::/apis/*",),
                "delete its HTTP API", _TAGGED,
            ),
            Grant(
                "EndKeys", _TTL, ("ssm:DeleteParameter",), ("arn:{p}:ssm:{r}:{a}:parameter/medimg/endpoints/*",),
                "delete its key",
            ),
        ),
    ),
}  # fmt: skip


def role_policy(role: Role, scope: Scope) -> Document:
    """Returns what a role may do."""
    return policy((*role.grants, *KEY) if scope.kms_key else role.grants, scope)


def user_policies(scope: Scope) -> dict[str, Document]:
    """Returns the policies of a person who uses medimg, by name."""
    made = {name: policy(grants, scope) for name, grants in USER.items()}
    if scope.kms_key:
        made[TRAIN_POLICY]["Statement"] += policy(KEY, scope)["Statement"]
    return made
