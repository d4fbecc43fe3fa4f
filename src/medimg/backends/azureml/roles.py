"""The least that medimg needs at Azure, as data: which actions, for which verb and why.

People have Microsoft's role "AzureML Data Scientist" in the workspace, and a role of ours in its resource group for
what that lacks. Azure cannot confine these actions to what has our tag: the resource group is the border.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medimg.backends.azureml.workspace import ENDER

__all__ = ["DATA_SCIENTIST", "ENDER_ROLE", "IN_WORKSPACE", "USER_ROLE", "BuiltInRole", "Grant", "Role", "allows"]

_ML = "Microsoft.MachineLearningServices/workspaces"


@dataclass(frozen=True)
class Grant:
    """Some actions of a role, with why they are there.

    Attributes:
        verbs: What fails without them.
        actions: Never a pattern.
        why: What they are for.
    """

    verbs: tuple[str, ...]
    actions: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Role:
    """A role of ours.

    Attributes:
        name: Followed by the resource group's name and a hash: a role's name is unique in a whole directory.
        description: What it is for.
        grants: What it allows.
    """

    name: str
    description: str
    grants: tuple[Grant, ...]

    @property
    def actions(self) -> tuple[str, ...]:
        """All that it allows, sorted."""
        return tuple(sorted(action for grant in self.grants for action in grant.actions))


@dataclass(frozen=True)
class BuiltInRole:
    """A role of Microsoft's.

    Attributes:
        name: In Microsoft's words.
        id: The same in every directory.
        actions: Patterns of what it allows.
        not_actions: Patterns of what it leaves out of that.
    """

    name: str
    id: str
    actions: tuple[str, ...]
    not_actions: tuple[str, ...]


def allows(actions: Iterable[str], not_actions: Iterable[str], action: str) -> bool:
    """Tells whether a role with these patterns allows an action, in any case of letters."""
    return any(_matches(pattern, action) for pattern in actions) and not any(
        _matches(pattern, action) for pattern in not_actions
    )


def _matches(pattern: str, action: str) -> bool:
    # As Microsoft's own roles use them, "workspaces/*/write" is also "workspaces/write".
    expression = re.escape(pattern).replace(r"/\*/", "/(.*/)?").replace(r"\*", ".*")
    return re.fullmatch(expression, action, re.IGNORECASE) is not None


# As Microsoft published it on 2023-06-01.
DATA_SCIENTIST = BuiltInRole(
    "AzureML Data Scientist",
    "f6c7c914-8db3-469d-8ca1-694a8f32e121",
    (f"{_ML}/*/read", f"{_ML}/*/action", f"{_ML}/*/delete", f"{_ML}/*/write"),
    (
        f"{_ML}/delete", f"{_ML}/write", f"{_ML}/computes/*/write", f"{_ML}/computes/*/delete",
        f"{_ML}/computes/listKeys/action", f"{_ML}/listKeys/action", f"{_ML}/hubs/write", f"{_ML}/hubs/delete",
        f"{_ML}/featurestores/write", f"{_ML}/featurestores/delete",
    ),
)  # fmt: skip

# What medimg uses of that role.
IN_WORKSPACE = (
    Grant(
        ("train", "predict_batch", "register", "deploy", "doctor"),
        (f"{_ML}/datastores/listSecrets/action", f"{_ML}/datastores/read", f"{_ML}/read"),
        "find the workspace's storage, and its key",
    ),
    Grant(
        ("train", "predict_batch", "deploy", "job.delete", "cleanup"),
        (
            f"{_ML}/codes/delete", f"{_ML}/codes/versions/delete", f"{_ML}/codes/versions/read",
            f"{_ML}/codes/versions/write", f"{_ML}/computes/read", f"{_ML}/data/delete", f"{_ML}/data/read",
            f"{_ML}/data/versions/delete", f"{_ML}/data/versions/read", f"{_ML}/data/versions/write",
            f"{_ML}/environments/delete", f"{_ML}/environments/read", f"{_ML}/environments/versions/delete",
            f"{_ML}/environments/versions/read", f"{_ML}/environments/versions/write",
        ),
        "data, code and environment of a job or endpoint",
    ),
    Grant(
        ("train", "predict_batch", "job", "jobs", "job.cancel", "cleanup"),
        (f"{_ML}/jobs/cancel/action", f"{_ML}/jobs/delete", f"{_ML}/jobs/read", f"{_ML}/jobs/write"),
        "submit, list, stop and delete jobs",
    ),
    Grant(
        ("register", "models", "model.delete", "deploy"),
        (
            f"{_ML}/models/delete", f"{_ML}/models/read", f"{_ML}/models/versions/delete",
            f"{_ML}/models/versions/read", f"{_ML}/models/versions/write", f"{_ML}/models/write",
        ),
        "add, list and delete versions of models",
    ),
    Grant(
        ("deploy", "endpoint", "endpoints", "endpoint.update", "endpoint.predict", "endpoint.delete"),
        (
            f"{_ML}/onlineEndpoints/delete", f"{_ML}/onlineEndpoints/deployments/delete",
            f"{_ML}/onlineEndpoints/deployments/getLogs/action", f"{_ML}/onlineEndpoints/deployments/read",
            f"{_ML}/onlineEndpoints/deployments/write", f"{_ML}/onlineEndpoints/listKeys/action",
            f"{_ML}/onlineEndpoints/read", f"{_ML}/onlineEndpoints/score/action", f"{_ML}/onlineEndpoints/write",
        ),
        "make, ask, change and delete endpoints",
    ),
)  # fmt: skip

_TTL = "deploy(ttl_hours=…)"

USER_ROLE = Role(
    "medimg user",
    "What AzureML Data Scientist lacks to train and serve with medimg",
    (
        Grant(
            ("train", "cleanup"), (f"{_ML}/computes/delete", f"{_ML}/computes/write"),
            "make the compute cluster that compute= names, and delete it; not needed for serverless compute",
        ),
        Grant(
            (_TTL, "endpoint.delete", "cleanup"),
            ("Microsoft.Logic/workflows/delete", "Microsoft.Logic/workflows/read", "Microsoft.Logic/workflows/write"),
            "the workflow that deletes an endpoint when its time is up",
        ),
        Grant(
            (_TTL, "doctor"),
            (
                "Microsoft.Authorization/roleAssignments/read", "Microsoft.Authorization/roleDefinitions/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
                "Microsoft.ManagedIdentity/userAssignedIdentities/read",
            ),
            f"let that workflow act as {ENDER}, and see that {ENDER} may delete endpoints",
        ),
        Grant(
            ("deploy(max_instances=…)", "endpoint.delete", "cleanup"),
            (
                "Microsoft.Insights/autoscaleSettings/delete", "Microsoft.Insights/autoscaleSettings/read",
                "Microsoft.Insights/autoscaleSettings/write",
            ),
            "let an endpoint have more machines under load; deleting one ends that",
        ),
        Grant(
            ("doctor",),
            (
                "Microsoft.Authorization/permissions/read", "Microsoft.ContainerRegistry/registries/read",
                "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Storage/storageAccounts/read",
            ),
            "see what there is, whether storage is closed to the public, and what you may do",
        ),
    ),
)  # fmt: skip

ENDER_ROLE = Role(
    "medimg ender",
    "Deletes endpoints of medimg when their time is up",
    (
        Grant(
            (_TTL,), (f"{_ML}/onlineEndpoints/delete", f"{_ML}/onlineEndpoints/read"),
            "see whether an endpoint is there and still the same, and delete it",
        ),
        Grant((_TTL,), ("Microsoft.Logic/workflows/delete",), "the workflow deletes itself when it is done"),
    ),
)  # fmt: skip
