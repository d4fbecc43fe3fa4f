"""The page for people: its files, and the headers they travel with. Needs the standard library only.

Nothing on the page comes from another address, and the browser is told to refuse whatever would: see `POLICY`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["POLICY", "PageFile", "page_file"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""The page's Content-Security-Policy: script, style and pictures are files of our own, and no frame is around it."""

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: Its bytes.
        headers: Content-Type, ETag, Cache-Control and what the browser may do with it.
    """

    content: bytes
    headers: Mapping[str, str]

    def answer(self, if_none_match: str = "") -> tuple[int, Mapping[str, str], bytes]:
        """Returns status, headers and body: 304 without a body where the browser has this very file."""
        tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        if self.headers["ETag"] in tags:
            return 304, self.headers, b""
        return 200, self.headers, self.content


def page_file(path: str) -> PageFile | None:
    """Returns what a path names, "/" or "/page/NAME"; None where that is no file of the page."""
    return _files().get(path)


@cache
def _files() -> Mapping[str, PageFile]:
    # Looked up by whole paths, so that no path, however it is written, leads out of the folder.
    found = {f"/page/{path.name}": _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    found["/"] = found.pop("/page/index.html")
    return found


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    headers = {
        "Content-Type": _TYPES[path.suffix],
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        "Cache-Control": "no-cache",  # asked anew each time, and answered by 304: files of two versions never meet
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return PageFile(content, headers)
