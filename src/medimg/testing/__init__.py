"""The proof that a backend keeps medimg's contract, for those who write one: `BackendConformance`, a pytest class.

Needs pytest, which medimg itself does not.
"""

from __future__ import annotations

from medimg.errors import MissingExtraError

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError("medimg.testing", "dev") from error

# Before the modules are imported: else a failed assertion would show no values.
for _module in ("workspace", "suite", "contract", "jobs", "registry", "endpoints"):
    pytest.register_assert_rewrite(f"medimg.testing.{_module}")

from medimg.testing.conformance import BackendConformance  # noqa: E402
from medimg.testing.workspace import Flags, Workspace  # noqa: E402

__all__ = ["BackendConformance", "Flags", "Workspace"]
