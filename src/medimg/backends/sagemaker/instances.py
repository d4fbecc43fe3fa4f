"""What follows from the name of an instance."""

from __future__ import annotations

import re

__all__ = ["has_local_disk"]

_LOCAL_DISK = re.compile(
    r"ml\.(?:g4dn|g[5-9]e?|gr6f?|p3dn|p4de?|p5(?:en?)?|p6(?:e|-\w+)*|trn\d\w*|[cmr]\d+[a-z]*d[a-z]*|i\d\w*)\.\w+"
)


def has_local_disk(instance: str) -> bool:
    """Tells whether an instance's disk is an NVMe drive of its own: of fixed size, and encrypted by its hardware.

    SageMaker refuses a key for such a disk.
    """
    return _LOCAL_DISK.fullmatch(instance) is not None
