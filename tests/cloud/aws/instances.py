"""Kinds of machines, as far as AWS treats them differently."""

from __future__ import annotations

import re

from .calls import AwsError

__all__ = ["check_volume_key"]

_WITH_LOCAL_DISKS = re.compile(
    r"ml\.(g4dn|g5|g6e?|gr6|g7e|p3dn|p4de?|p5(e|en)?|p6\w*|trn\w+|i\d\w*|[cmr]\d+[a-z]*d[a-z]*)\..+"
)


def check_volume_key(instance: str, key: str | None) -> None:
    """Raises AWS's refusal of a key for disks that encrypt by themselves: those inside the machine."""
    if key and _WITH_LOCAL_DISKS.fullmatch(instance):
        raise AwsError(
            "ValidationException",
            f"KMS key is not supported for NVMe instance storage. Instance type {instance} encrypts its local storage "
            "by hardware.",
        )
