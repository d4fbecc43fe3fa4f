"""How a backend says what it cannot do, and what it needs to say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medimg.errors import BackendError
from medimg.testing import BackendConformance, Flags

VERBS = "test_the_verbs_are_those_of_the_base_class"


def test_a_flag_for_a_test_that_does_not_exist_is_refused() -> None:
    """A flag must not outlive its test; the nearest name is suggested."""
    with pytest.raises(LookupError, match=f"Did you mean '{VERBS}'"):
        type("TestTypo", (BackendConformance,), {"flags": Flags(skips={VERBS[:-2]: "a reason"})})


def test_a_flag_marks_the_test_of_one_backend_only() -> None:
    """The others run it as before."""
    flags = Flags(skips={VERBS: "never"}, unsupported={"test_cleanup_leaves_nothing": BackendError})
    flagged = type("TestFlagged", (BackendConformance,), {"flags": flags})
    (skip,) = getattr(flagged, VERBS).pytestmark
    (xfail,) = flagged.test_cleanup_leaves_nothing.pytestmark
    assert (skip.name, skip.kwargs) == ("skip", {"reason": "never"})
    assert xfail.name == "xfail" and xfail.kwargs["raises"] is BackendError and xfail.kwargs["strict"] is True
    plain = type("TestPlain", (BackendConformance,), {})
    assert not hasattr(getattr(plain, VERBS), "pytestmark")
    assert getattr(flagged, VERBS).__doc__ == getattr(plain, VERBS).__doc__


def test_without_pytest_the_suite_says_how_to_install_it(tmp_path: Path) -> None:
    """Pytest is for those who develop; medimg does not bring it."""
    code = "import sys; sys.modules['pytest'] = None; import medimg.testing"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("medimg.errors.MissingExtraError: medimg.testing needs packages")
    assert "pip install 'medimg[dev]'" in finished.stderr
