"""What a deployment tells its server through the environment. Needs the standard library only."""

from __future__ import annotations

import os

from medimg.errors import ConfigError

__all__ = ["setting"]


def setting(name: str) -> str:
    """Returns a variable of the environment.

    Raises:
        ConfigError: It is not set, or empty.
    """
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"the environment has no {name}, which a deployment sets. Deploy the model again")
    return value
