"""What jobs run on: serverless compute, which is there only while a job runs, or a compute cluster of the user's."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.instances import JOB_INSTANCE
from medimg.backends.azureml.workspace import Workspace
from medimg.config import Resources
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, NotFoundError

__all__ = ["Machine", "delete_clusters", "machine"]

_IDLE_SECONDS = 300  # after which a cluster's machine is given back
_LOW_PRIORITY = "low_priority"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job runs on.

    Attributes:
        instance: Azure's name of the machine.
        spot: Whether Azure may take it away.
        cluster: ARM id of the compute cluster; "": serverless.
    """

    instance: str
    spot: bool
    cluster: str = ""


def machine(workspace: Workspace, compute: str | None, resources: Resources) -> Machine:
    """Returns what a job runs on; a cluster that does not exist is made, with no machine while there is no job.

    Args:
        workspace: Where.
        compute: Name of a compute cluster; None: serverless.
        resources: What the job asks for.

    Raises:
        ConfigError: The job asks for another machine than the cluster's, or it is not known of which to make one.
        QuotaError: The subscription has no cores left for such a cluster.
    """
    if compute is None:
        return Machine(resources.instance or JOB_INSTANCE, resources.spot)
    # Azure itself takes a job for a cluster that does not exist, and fails it later.
    try:
        found = _find(workspace, compute)
    except NotFoundError:
        found = _make(workspace, compute, resources)
    if found.provisioning_state != "Succeeded":
        raise BackendError(
            f"the cluster {compute!r} is not ready yet, or could not be made. Submit again in a minute, or see "
            f"{workspace.page(f'compute/{compute}/details')}"
        )
    kind = str(found.type).lower()
    if kind != "amlcompute":
        raise ConfigError(
            f"compute={compute!r} is of the type {kind}, and jobs run on clusters (amlcompute). Leave compute= out for "
            "serverless compute, or name a cluster"
        )
    # Azure writes the sizes of some clusters in capitals.
    if resources.instance is not None and resources.instance.lower() != str(found.size).lower():
        raise ConfigError(
            f"the cluster {compute!r} has machines of {found.size}, and the job asks for {resources.instance}. Leave "
            f"the instance out, name another compute=, or leave compute= out for serverless compute"
        )
    spot = str(found.tier).lower() == _LOW_PRIORITY
    if resources.spot and not spot:
        raise ConfigError(
            f"the cluster {compute!r} has dedicated machines, and the job asks for spot=True. Name another compute=, "
            "which is made with low priority, or leave compute= out for serverless compute"
        )
    return Machine(str(found.size), spot, str(found.id))


def delete_clusters(workspace: Workspace) -> None:
    """Deletes the clusters that `machine` has made."""
    operations: Any = workspace.ml.compute
    with translated("listing the compute clusters"):
        ours = [found.name for found in operations.list() if workspace.owns(found.tags)]
    for name in ours:
        with translated(f"deleting the cluster {name!r}"):
            operations.begin_delete(name).result()


def _find(workspace: Workspace, name: str) -> Any:
    operations: Any = workspace.ml.compute
    with translated(f"looking for the cluster {name!r}"):
        return operations.get(name)


def _make(workspace: Workspace, name: str, resources: Resources) -> Any:
    if resources.instance is None:
        raise ConfigError(
            f"there is no compute {name!r} in the workspace {workspace.name!r}. To have it made say of which machines: "
            f"resources=medimg.Resources(instance={JOB_INSTANCE!r})"
        )
    from azure.ai.ml.entities import AmlCompute

    operations: Any = workspace.ml.compute
    made = AmlCompute(
        name=name, size=resources.instance, tier=_LOW_PRIORITY if resources.spot else "dedicated", min_instances=0,
        max_instances=1, idle_time_before_scale_down=_IDLE_SECONDS, tags=workspace.tag_map(),
    )  # fmt: skip
    # Another process may make the same one at the same time.
    with suppress(AlreadyExistsError), translated(f"making the cluster {name!r} of {resources.instance}"):
        operations.begin_create_or_update(made).result()
    return _find(workspace, name)
