"""`BackendConformance`: the whole suite as one class to inherit from."""

from __future__ import annotations

from medimg.testing.contract import ContractTests
from medimg.testing.endpoints import EndpointTests
from medimg.testing.jobs import JobTests
from medimg.testing.registry import RegistryTests

__all__ = ["BackendConformance"]


class BackendConformance(ContractTests, JobTests, RegistryTests, EndpointTests):
    """Proves a backend with real jobs, models and endpoints, seen from several processes.

    Inherit from it in a test module under a name that begins with `Test`; the suite brings its data (phantoms) and a
    `MEDIMG_HOME` of its own, and takes three to five minutes where jobs start at once.

        class TestHarbour(BackendConformance):
            factory = "medimg:backend"
            flags = Flags(
                state_in_home=False,
                unsupported={"test_an_endpoint_ends_after_its_hours_though_nobody_is_there": ConfigError},
                skips={"test_cleanup_leaves_nothing": "the account is shared with other projects"},
            )

            @classmethod
            def options(cls, folder):
                return {"name": "harbour", "bucket": f"medimg-{folder.name}"}

            @pytest.fixture(scope="class")
            @classmethod
            def surroundings(cls):
                with harbour_emulator() as address:
                    yield {"HARBOUR_ENDPOINT": address}

    Class attributes:
        factory: "module:callable" that makes the backend, also in another process.
        flags: What differs from the other backends; see `Flags`.
    """
