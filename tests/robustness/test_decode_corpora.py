"""Files that break readers, and files that we break: each gives pixels or one coded rejection, and soon.

Decoding happens in a child process, so that a crash of a decoder's library is seen. `benchmarks/studies/robustness.py`
does the same for 10,000 files a format.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from broken_files import KINDS, mutations, seeds
from burdens import BURDENS, DICOM_BURDENS
from watched import Outcome, Watched

from medimg.data.decode import decode
from medimg.errors import ImageRejected

SHARED = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
CORPORA = SHARED / "corpora"
MUTATIONS = int(os.environ.get("MEDIMG_MUTATIONS", "250"))
# Enough for every bound, and for what is not bounded to be seen: each would take half a minute at ten times the size.
BURDEN_BYTES = 3_000_000


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A child process that decodes."""
    with Watched() as child:
        yield child


def kept(watched: Watched, files: Iterable[tuple[str, bytes]]) -> tuple[Counter[str], list[Outcome]]:
    """Returns how many files gave pixels and how many each rejection, once no promise was broken."""
    found = list(watched.outcomes(files))
    assert [each for each in found if each.breach] == []
    return Counter(each.code for each in found), found


def told(title: str, counts: Counter[str], found: list[Outcome]) -> str:
    """Returns one line about a set of files."""
    slowest, largest = max(each.seconds for each in found), max(each.peak_bytes for each in found)
    return f"\n{title}: {len(found)} files, {dict(counts)}, slowest {slowest:.3f} s, peak {largest / 2**20:.0f} MiB"


def test_every_file_of_the_corpora_gives_pixels_or_a_rejection(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow's own test images, fuzzers' findings, archives and DICOM files."""
    if not CORPORA.is_dir():
        pytest.skip(f"no corpora at {CORPORA}; set MEDIMG_SHARED_DATA to the folder that holds corpora/")
    for corpus in sorted(folder for folder in CORPORA.iterdir() if folder.is_dir()):
        files = sorted(path for path in corpus.rglob("*") if path.is_file())
        counts, found = kept(watched, ((path.name, path.read_bytes()) for path in files))
        with capsys.disabled():
            print(told(corpus.name, counts, found), end="")
        if corpus.name == "pillow":
            assert counts["pixels"] > 0.7 * len(files)
        if corpus.name == "gofuzz-archives":
            assert counts["pixels"] == 0


ROUND = """
import sys
from pathlib import Path
from medimg import Dataset
from medimg.data.pack import build

dataset = Dataset.from_folder(Path(sys.argv[1]), positive="odd")
facts = dataset.index()
pack = build(dataset, 16, facts=facts)
taken = [id for id, fact in facts.items() if fact.rejection is None]
assert {sample.id for sample in pack.samples} == set(taken), "what can be read is packed, and nothing else"
assert len(dataset.audit().findings) > 3
print(len(dataset), len(taken))
"""


def test_a_dataset_of_the_corpora_is_indexed_audited_and_packed(tmp_path: Path) -> None:
    """Under names that promise pictures. What libtiff writes of them to the standard error names no file."""
    if not CORPORA.is_dir():
        pytest.skip(f"no corpora at {CORPORA}; set MEDIMG_SHARED_DATA to the folder that holds corpora/")
    files = sorted(path for path in CORPORA.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        link = tmp_path / "set" / ("odd", "even")[number % 2] / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ROUND, str(tmp_path / "set")],
        capture_output=True, text=True, errors="replace", timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    everything, taken = map(int, done.stdout.split())
    assert everything == len(files)
    assert 0.3 * len(files) < taken < 0.6 * len(files)
    assert not re.search(r"Warning|Traceback|\.png", done.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutation_gives_pixels_or_a_rejection(
    kind: str, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeded changes of valid files; MEDIMG_MUTATIONS sets how many."""
    if kind == "DICOM" and find_spec("pydicom") is None:
        pytest.skip("pydicom is not installed: pip install 'medimg[dicom]'")
    valid = [(f"valid {kind} {number}", data) for number, data in enumerate(seeds(kind))]
    assert kept(watched, valid)[0] == {"pixels": len(valid)}
    counts, found = kept(watched, mutations(kind, range(MUTATIONS)))
    with capsys.disabled():
        print(told(kind, counts, found), end="")
    assert counts.total() == MUTATIONS
    assert len(counts) > 2


def test_a_scaled_decoding_rejects_what_a_full_one_rejects() -> None:
    """In the same words, and takes what it takes: all of the file is read either way."""

    def told_of(data: bytes, size: tuple[int, int] | None) -> str:
        try:
            return f"pixels of {decode(data, name='x', size=size).ndim} axes"
        except ImageRejected as rejected:
            return str(rejected)

    answers = [(told_of(data, None), told_of(data, (2, 2))) for _, data in mutations("JPEG", range(MUTATIONS))]
    assert [pair for pair in answers if pair[0] != pair[1]] == []
    assert len({words for words, _ in answers}) > 5


def test_files_built_to_take_minutes_are_told_at_once(watched: Watched) -> None:
    """Each is of three megabytes: one that slips through takes seconds a megabyte, or hundreds of megabytes."""
    _, found = kept(watched, ((name, made(BURDEN_BYTES)) for name, made in BURDENS.items()))
    assert {each.name for each in found if each.code == "too-complex"} > {
        "JPEG of many scans",
        "JPEG of empty segments",
        "JPEG of EXIF segments",
        "TIFF of more strips than rows",
        "PNG of empty chunks",
        "BMP of runs of one",
        "GIF of one long comment",
    }


def test_dicom_files_built_to_take_minutes_are_told_at_once(watched: Watched) -> None:
    """The same tricks behind a DICOM header."""
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'medimg[dicom]'")
    kept(watched, ((name, made(BURDEN_BYTES // 3)) for name, made in DICOM_BURDENS.items()))


CRASHING = {
    "crash": "import os; os.abort()",
    "undeclared": "raise RuntimeError('not ours')",
    "hang": "while True: pass",
    "memory": "kept = bytearray(300_000_000); return __import__('numpy').zeros((2, 2), 'uint8')",
    "output": "print('psst'); return __import__('numpy').zeros((2, 2), 'uint8')",
}


@pytest.mark.parametrize("breach", CRASHING)
def test_a_broken_promise_is_seen(breach: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What watches is watched: a decoder that breaks each promise is caught, and the next file goes on."""
    from medimg.data import decode as module

    broken = tmp_path / "medimg"
    broken.mkdir()
    assert module.__file__ is not None
    (tmp_path / "sitecustomize.py").write_text(
        "import medimg.data.decode as module\n"
        "right = module.decode\n"
        "def decode(data, *, name):\n"
        "    if name != 'bad': return right(data, name=name)\n"
        f"    {CRASHING[breach]}\n"
        "module.decode = decode\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("watched.PATIENCE_S", 3.0)
    good = seeds("PNG")[0]
    with Watched() as child:
        found = list(child.outcomes([("good", good), ("bad", good), ("after", good)]))
    assert [each.breach for each in found] == ["", breach, ""]
