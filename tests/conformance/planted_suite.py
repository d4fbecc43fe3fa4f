"""The conformance suite on the backends of `planted.py`, a class for each; run by `test_planted_bugs.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planted import BUGS

from medimg.testing import BackendConformance, Flags


class TestHonest(BackendConformance):
    """Nothing is planted: whatever fails here is no catch."""

    factory = "planted:make"
    bug = ""
    flags = Flags(state_in_home=False, seconds=120, poll_seconds=0.05, ttl_seconds=12)

    @classmethod
    def options(cls, folder: Path) -> Mapping[str, Any]:
        """A root for each workspace."""
        return {"bug": cls.bug, "root": str(folder)}


class Planted(TestHonest):
    """A bug is planted: what never comes need not be waited for so long."""

    flags = Flags(state_in_home=False, seconds=8, poll_seconds=0.05, ttl_seconds=5)


for number, bug in enumerate(BUGS):
    globals()[f"TestPlanted{number}"] = type(f"TestPlanted{number}", (Planted,), {"bug": bug, "__doc__": bug})
