"""What the name of an Azure machine says about it."""

from __future__ import annotations

import re

__all__ = ["JOB_INSTANCE", "SERVING_INSTANCE", "cores", "has_gpu"]

JOB_INSTANCE = "Standard_NC4as_T4_v3"
SERVING_INSTANCE = "Standard_DS2_v2"


def has_gpu(instance: str) -> bool:
    """Tells whether a machine has NVIDIA GPUs: its name begins with N, but for those with AMD's (NV…v4) and FPGAs."""
    return bool(re.match(r"standard_n(?!p)(?!v\d+\w*_v4)", instance.lower()))


def cores(instance: str) -> int:
    """Returns the number of virtual CPUs that a name says, such as 4 for Standard_NC4as_T4_v3; 0: it says none."""
    match = re.match(r"standard_[a-z]+(\d+)", instance.lower())
    # The D and DS series before v3 count sizes: 1, 2, 3 and 4 have 1, 2, 4 and 8 cores, 11 to 14 have 2 to 16.
    old = re.fullmatch(r"standard_ds?(\d+)_v2", instance.lower())
    if old is not None:
        size = int(old[1])
        return 1 << (size - 1 if size < 10 else size - 10)
    return int(match[1]) if match else 0
