"""Everything that executes: what jobs and endpoints share, and both of them."""

from __future__ import annotations

from pathlib import Path

from machines.containers import Containers

from .cloud import Cloud
from .endpoints import add_endpoints
from .history import History
from .images import Images
from .jobs import Jobs
from .machine import Machine
from .tracking import Tracking
from .workflows import add_workflows

__all__ = ["add_execution"]


def add_execution(cloud: Cloud, images: Path) -> None:
    """Adds jobs with their history and metrics, endpoints, and workflows.

    Args:
        cloud: The emulator.
        images: The folder with the packages that images of jobs and endpoints have.
    """
    built = Images(cloud.root / "images", images)
    containers = Containers(cloud.root / "containers", built.folder)
    machine = Machine(cloud, built, containers)
    tracking = Tracking(cloud)
    jobs = Jobs(machine, tracking)
    cloud.arm.serve(jobs)
    History(cloud, jobs)
    add_endpoints(machine)
    add_workflows(cloud)
    cloud.tells["processes"] = lambda _: containers.running()
    cloud.closes.append(lambda workspace: containers.close() if workspace is None else None)
