"""The report in a real browser: nothing is cut off on a telephone."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_report import AUDIT, binary, build, case, many, with_columns

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")

# The page itself runs no script; this one looks at it from outside.
FRAME = """<!doctype html><iframe id="page" style="border:0;width:390px;height:800px" src="{name}.html"></iframe>
<p id="found"></p><script>
document.getElementById("page").onload = event => {{
  const page = event.target.contentDocument, wide = page.documentElement.scrollWidth;
  const outside = [...page.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > 391
    && !one.closest(".scroll") && !one.closest("svg")).map(one => one.tagName + "." + one.className);
  document.getElementById("found").textContent = "width " + wide + " outside " + outside.length + " " + outside[0];
}};
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


def browse(*arguments: str, home: Path) -> str:
    """Returns what the browser prints."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={home}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Reports of every kind on a local server: the folder and its address."""
    folder = tmp_path_factory.mktemp("reports")
    made = {
        "binary": build(binary("val"), with_columns(binary("test")), audit=AUDIT, cases=[case("right"), case("wrong")]),
        "labels": build(many("val", "multilabel", 14)),
        "classes": build(many("val", "multiclass", 12)),
    }
    for name, report in made.items():
        report.to_html(folder / f"{name}.html")
        (folder / f"{name}-frame.html").write_text(FRAME.format(name=name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["binary", "labels", "classes"])
def test_a_telephone_shows_the_whole_width(name: str, site: tuple[Path, str], tmp_path: Path) -> None:
    """At 390 pixels nothing scrolls sideways but wide tables in their own frame."""
    shown = browse("--virtual-time-budget=5000", "--dump-dom", f"{site[1]}/{name}-frame.html", home=tmp_path)
    found = re.search(r"width (\d+) outside (\d+) (\S+)", shown)
    assert found is not None, shown[-500:]
    assert int(found[1]) <= 390 and found[2] == "0", found[0]
