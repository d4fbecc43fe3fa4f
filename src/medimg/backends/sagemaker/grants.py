"""What a policy of AWS is made of: grants, each with its reason, roles that have some, and where they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Document", "Grant", "Role", "Scope", "policy", "trust"]

Document = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Where policies hold.

    Attributes:
        account: The account's number.
        partition: The kind of AWS: "aws", "aws-cn" or "aws-us-gov".
        region: One region, or "*": roles and policies are the account's, and serve every region's bucket.
        buckets: Names or patterns of the buckets; empty: those that bootstrap makes, in all regions.
        prefix: What the keys of objects, and the tag of everything else, begin with.
        kms_key: ARN of the key that encrypts what we keep; None: the services' own keys.
    """

    account: str
    partition: str = "aws"
    region: str = "*"
    buckets: tuple[str, ...] = ()
    prefix: str = "medimg"
    kms_key: str | None = None

    def resolve(self, pattern: str) -> list[str]:
        """Returns the ARNs that a grant's pattern stands for: one, or one a bucket."""
        values = {"p": self.partition, "r": self.region, "a": self.account, "prefix": self.prefix, "key": self.kms_key}
        if "{bucket}" not in pattern:
            return [pattern.format(**values)]
        buckets = self.buckets or (f"medimg-{self.account}-{self.region}",)
        return [pattern.format(bucket=bucket, **values) for bucket in buckets]


@dataclass(frozen=True)
class Grant:
    """One statement of a policy, with why it is there.

    Attributes:
        name: Of the statement.
        verbs: What fails without it.
        actions: What is allowed; never a pattern.
        resources: Patterns of ARNs, to be resolved by a `Scope`.
        why: What the actions are for.
        conditions: Operator to key to value; values may be patterns like those of resources.
        unconfined: Where `resources` is "*": the reason.
    """

    name: str
    verbs: tuple[str, ...]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    why: str
    conditions: Mapping[str, Mapping[str, str | tuple[str, ...]]] = field(default_factory=dict)
    unconfined: str = ""

    def statement(self, scope: Scope) -> Document:
        """Returns it as IAM takes it."""
        made: Document = {
            "Sid": self.name,
            "Effect": "Allow",
            "Action": list(self.actions),
            "Resource": [arn for pattern in self.resources for arn in scope.resolve(pattern)],
        }
        if self.conditions:
            made["Condition"] = {
                operator: {key: _values(value, scope) for key, value in wanted.items()}
                for operator, wanted in self.conditions.items()
            }
        return made


def _values(value: str | tuple[str, ...], scope: Scope) -> str | list[str]:
    if isinstance(value, str):
        return scope.resolve(value)[0]
    return [scope.resolve(each)[0] for each in value]


@dataclass(frozen=True)
class Role:
    """A role that a service of AWS takes on for us.

    Attributes:
        service: Who may take it on.
        description: What it is for.
        grants: What it may do.
        from_account: Whether the trust names the account: nobody else's resources can then make the service use it.
    """

    service: str
    description: str
    grants: tuple[Grant, ...]
    from_account: bool = True


def policy(grants: Iterable[Grant], scope: Scope) -> Document:
    """Returns a policy document that allows the grants, and what they need of the scope's key."""
    return {"Version": "2012-10-17", "Statement": [grant.statement(scope) for grant in grants]}


def trust(role: Role, scope: Scope) -> Document:
    """Returns the document that says who may take on a role."""
    statement: Document = {
        "Effect": "Allow", "Principal": {"Service": role.service}, "Action": "sts:AssumeRole",
    }  # fmt: skip
    if role.from_account:
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": scope.account}}
    return {"Version": "2012-10-17", "Statement": [statement]}
