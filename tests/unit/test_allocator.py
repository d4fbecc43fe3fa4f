"""What the C library does with freed memory, told in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

if platform.libc_ver()[0] != "glibc":
    pytest.skip("only glibc is told", allow_module_level=True)

FAULTS = """
import resource, sys
from medimg.serving.processes import allocator
if sys.argv[1] == "keep":
    allocator.keep()
def images():
    return [bytearray(b"x") * 300_000 for _ in range(4)]
images()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    images()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GIVEN_BACK = """
from pathlib import Path
from medimg.serving.processes import allocator
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
pieces = [bytes(b"x") * 60_000 for _ in range(1000)]
kept = pieces[::100]
del pieces
before = resident()
allocator.give_back()
print(before - resident())
"""


def number(code: str, *options: str) -> int:
    """Returns what a program prints."""
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_of_an_image_is_kept_for_the_next() -> None:
    """Few pages are asked for again, where each image costs seventy and more otherwise."""
    assert number(FAULTS, "keep") * 10 < number(FAULTS, "not")


def test_what_is_free_between_what_is_not_is_given_back() -> None:
    """Nearly all of 60 MB, though every hundredth piece is still in use."""
    assert number(GIVEN_BACK) > 40_000_000
