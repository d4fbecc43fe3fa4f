"""The conformance suite fails for planted bugs, and for nothing else: the table planted × caught.

That the same adapter without a bug passes the whole suite is what `test_plugin.py` tests, with the real trainer; with
the fast one it runs only what is to catch a bug.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

import medimg
from medimg.data.synthetic import write_phantoms
from medimg.testing.workspace import phantom_dataset, recipe

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PROCESSES = 7
AT_ONCE = 4
Outcomes = dict[str, str]


@pytest.fixture(scope="module")
def environment(installed_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """What the runs need: the plugin, the bugs, and one model that TensorFlow trained for the fast trainer."""
    folder = tmp_path_factory.mktemp("fast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]))
        patch.syspath_prepend(HERE)
        dataset = phantom_dataset(write_phantoms(folder / "phantoms", patients=72, images_per_patient=(1, 1), size=48))
        job = medimg.backend("folder", root=folder / "root").train(dataset, recipe())
        patch.setenv("FAST_TRAINER_MODEL", str(job.model.path))
        yield dict(os.environ)


@pytest.fixture(scope="module")
def planted(environment: Mapping[str, str]) -> ModuleType:
    """The module with the bugs; it can be imported when the plugin is installed."""
    spec = importlib.util.find_spec("planted")
    assert spec is not None and Path(str(spec.origin)).parent == HERE
    return importlib.import_module("planted")


def run(tests: Mapping[str, Sequence[str]], environment: Mapping[str, str], folder: Path) -> dict[str, Outcomes]:
    """Runs tests of `planted_suite.py` in another process.

    Args:
        tests: Class to its tests.
        environment: Of that process.
        folder: A new one, for what it leaves behind.

    Returns:
        Class to test to its outcome: passed, failed or skipped.
    """
    folder.mkdir()
    suite = HERE / "planted_suite.py"
    nodes = [f"{suite}::{name}::{test}" for name in tests for test in tests[name]]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *nodes, "-q", "--tb=short", "-p", "no:cacheprovider",
         "--basetemp", str(folder / "work"), "--junitxml", str(folder / "outcomes.xml")],
        env=environment, cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Its keepers end when their folders are gone: no process outlives the test, whatever the bug.
    shutil.rmtree(folder / "work", ignore_errors=True)
    (folder / "output.txt").write_text(finished.stdout + finished.stderr)
    assert finished.returncode in (0, 1), finished.stdout + finished.stderr
    outcomes: dict[str, Outcomes] = {}
    for case in ET.parse(folder / "outcomes.xml").getroot().iter("testcase"):  # noqa: S314 - written just now
        found = outcomes.setdefault(case.attrib["classname"].rpartition(".")[2], {})
        test = case.attrib["name"].partition("[")[0]
        outcome = "skipped" if case.find("skipped") is not None else "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        # One of several parameters is enough to fail.
        found[test] = outcome if found.get(test, "passed") == "passed" else found[test]
    return outcomes


def named_for_bugs(planted: ModuleType) -> list[str]:
    """Returns the tests that any of the bugs names, each once."""
    return sorted({test for _, tests in planted.BUGS.values() for test in tests})


@pytest.fixture(scope="module")
def outcomes(
    planted: ModuleType, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcomes]:
    """What became of the tests named for each bug on the backend that has it, and of all of them on the honest one."""
    folder = tmp_path_factory.mktemp("planted")
    named = [(f"TestPlanted{number}", tests) for number, (_, tests) in enumerate(planted.BUGS.values())]
    # Several classes a process, because a process takes a second to start; most of the rest is waiting.
    groups = [{"TestHonest": named_for_bugs(planted)}, *(dict(named[start::PROCESSES]) for start in range(PROCESSES))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda numbered: run(numbered[1], environment, folder / str(numbered[0])), enumerate(groups))
        return {name: found for group in done for name, found in group.items()}


def test_the_honest_backend_passes_what_catches_the_bugs(planted: ModuleType, outcomes: Mapping[str, Outcomes]) -> None:
    """With the same trainer as the planted ones: what is caught there is the bug and nothing else."""
    found = outcomes["TestHonest"]
    assert sorted(found) == named_for_bugs(planted)
    assert {name: outcome for name, outcome in found.items() if outcome != "passed"} == {}


def test_every_planted_bug_is_caught(planted: ModuleType, outcomes: Mapping[str, Outcomes]) -> None:
    """Each by the test that is there for it. The table is printed: `pytest -s`."""
    caught = {
        bug: [test for test, outcome in outcomes[f"TestPlanted{number}"].items() if outcome == "failed"]
        for number, bug in enumerate(planted.BUGS)
    }
    width = max(map(len, caught))
    table = "\n".join(f"{bug:<{width}}  {', '.join(tests) or '-- NOT CAUGHT --'}" for bug, tests in caught.items())
    print(f"\n{'planted':<{width}}  caught by\n{table}")
    assert len(caught) >= 14
    assert not [bug for bug, (_, tests) in planted.BUGS.items() if tests[-1] not in caught[bug]], table
