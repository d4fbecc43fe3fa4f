"""What there is of medimg at Azure, and what of it costs money while nobody uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from medimg.backends.azureml.blueprint import GROUP_API, OF_WORKSPACE, Part, blueprint
from medimg.backends.azureml.bootstrap import Outcome, Step, find, id_of, is_ours
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.logs import ENDED
from medimg.backends.azureml.prices import machine_rate, storage_rate
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.rates import Rate

__all__ = ["ML_API", "Running", "Setup", "running", "status"]

ML_API = "2024-10-01"
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Running:
    """Something that has machines, or may have.

    Attributes:
        kind: "endpoint", "job" or "compute".
        name: Its name.
        state: In Azure's words.
        instance: Of its machines; "": not known.
        count: Machines that are billed while nobody uses it; 0: none.
        ours: Whether medimg made it.
    """

    kind: str
    name: str
    state: str
    instance: str
    count: int
    ours: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """What there is.

    Attributes:
        subscription: Its id.
        region: Where; "": there is no workspace.
        steps: What bootstrap would make, and whether it is there.
        running: What has machines.
        hourly: Price of a machine-hour, by instance.
        objects: Files of ours in storage.
        size_bytes: Their size.
        storage: The price of keeping them.
        registry: Name of the container registry that Azure made for images; "": none yet.
    """

    subscription: str
    region: str
    steps: tuple[Step, ...]
    running: tuple[Running, ...] = ()
    hourly: Mapping[str, Rate] = field(default_factory=dict)
    objects: int = 0
    size_bytes: int = 0
    storage: Rate | None = None
    registry: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return all(step.outcome != "none" for step in self.steps)


def status(workspace: Workspace) -> Setup:
    """Returns what there is of the set-up in the resource group."""
    name, parts = workspace.resource_group, blueprint(workspace)
    group = find(workspace, workspace.group_id, GROUP_API, f"resource group {name!r}")
    first = Step("resource group", name, _outcome(group))
    if group is None:
        return Setup(workspace.subscription, "", (first, *(Step(part.what, part.label, "none") for part in parts)))
    made = find(workspace, workspace.id, ML_API, f"workspace {workspace.name!r}")
    # A workspace that somebody else made has its own storage, vault and logs.
    elsewhere = made is not None and not is_ours(made)
    shown = [part for part in parts if not (elsewhere and part.key in OF_WORKSPACE)]

    def look(part: Part) -> Step:
        found = find(workspace, id_of(workspace, part, parts), part.api_version, f"{part.what} {part.label!r}")
        return Step(part.what, part.label, _outcome(found, tagged="tags" in part.body))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        steps = (first, *pool.map(look, shown))
    if made is None:
        return Setup(workspace.subscription, "", steps)
    there = tuple(running(workspace))
    sizes = workspace.storage.sizes().values()
    return Setup(
        workspace.subscription,
        workspace.location,
        steps,
        there,
        {each.instance: machine_rate(workspace, each.instance) for each in there if each.count and each.instance},
        len(sizes),
        sum(sizes),
        storage_rate(workspace),
        str(made["properties"].get("containerRegistry") or "").rpartition("/")[2],
    )


def _outcome(found: Mapping[str, Any] | None, *, tagged: bool = True) -> Outcome:
    if found is None:
        return "none"
    return "there" if is_ours(found) or not tagged else "not ours"


def running(workspace: Workspace) -> Iterator[Running]:
    """Yields what has machines in the workspace, or may have, whoever made it."""
    with translated(f"listing what runs in the workspace {workspace.name!r}"):
        for endpoint in workspace.arm_list(f"{workspace.id}/onlineEndpoints", ML_API):
            yield _endpoint(workspace, endpoint)
        # Of jobs, ours: a workspace may have had thousands of others, and Azure cannot list those that run.
        for job in workspace.arm_list(f"{workspace.id}/jobs", ML_API, tag="medimg"):
            state = str(job["properties"].get("status"))
            if is_ours(job["properties"]) and state not in ENDED:
                yield Running("job", job["name"], state, _instance(job), 0, ours=True)
        for compute in workspace.arm_list(f"{workspace.id}/computes", ML_API):
            yield _compute(compute)


def _endpoint(workspace: Workspace, endpoint: Mapping[str, Any]) -> Running:
    deployments = list(workspace.arm_list(f"{workspace.id}/onlineEndpoints/{endpoint['name']}/deployments", ML_API))
    count = sum(int((each.get("sku") or {}).get("capacity") or 1) for each in deployments)
    instance = next((str(each["properties"].get("instanceType") or "") for each in deployments), "")
    state = str(endpoint["properties"].get("provisioningState"))
    return Running("endpoint", endpoint["name"], state, instance, count, is_ours(endpoint))


def _instance(job: Mapping[str, Any]) -> str:
    resources = job["properties"].get("resources") or {}
    return str(resources.get("instanceType") or "")


def _compute(compute: Mapping[str, Any]) -> Running:
    told = compute["properties"]
    inner = told.get("properties") or {}
    if told.get("computeType") == "ComputeInstance":
        state = str(inner.get("state"))
        count = 0 if state == "Stopped" else 1
    else:
        state = str(told.get("provisioningState"))
        least = (inner.get("scaleSettings") or {}).get("minNodeCount") or 0
        count = max(int(least), int(inner.get("currentNodeCount") or 0))
    return Running("compute", compute["name"], state, str(inner.get("vmSize") or ""), count, is_ours(compute))
