"""The local backend keeps the contract, all of it: nothing is skipped."""

from __future__ import annotations

import pytest

from medimg.testing import BackendConformance


# MLflow maps its tables in a way that SQLAlchemy has begun to deprecate.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.slow
class TestLocal(BackendConformance):
    """Real training jobs, MLflow's registry and servers on this machine."""

    factory = "medimg:LocalBackend"
