"""Everything that the emulator has, put together."""

from __future__ import annotations

from pathlib import Path

from .assets import add_assets
from .catalogue import add_catalogue
from .cloud import Cloud
from .computes import add_computes
from .execution import add_execution
from .prices import Prices
from .setup import add_setup
from .state import add_side_door
from .workspaces import add_workspaces

__all__ = ["add_parts"]


def add_parts(cloud: Cloud, images: Path) -> None:
    """Adds what answers to a cloud.

    Args:
        cloud: The emulator.
        images: The folder with the packages that images of jobs and endpoints have.
    """
    add_setup(cloud)
    add_catalogue(cloud)
    add_workspaces(cloud)
    add_assets(cloud)
    add_computes(cloud)
    add_execution(cloud, images)
    Prices(cloud)
    add_side_door(cloud)
