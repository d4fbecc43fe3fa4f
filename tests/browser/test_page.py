"""The page in a real browser, in front of a real server: what a person sees, hears and can do with a keyboard."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from chromium import BROWSER, Page, chromium, numbers
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.home import atomic_write
from medimg.key_file import KeyFile

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")

OPEN = "!document.querySelector('#workbench').hidden"
ANSWERED = "document.querySelectorAll('#strip .answered, #strip .refused').length === {}"
LABEL = "document.querySelector('#verdict .label').textContent"


class Server:
    """A running server and its keys."""

    def __init__(self, url: str, keys: KeyFile, key: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.keys, self.key, self.process = url, keys, key, process

    def change(self, model: ModelFolder, version: str) -> None:
        """Serves a model, and waits until it answers."""
        chosen = {"model": str(model.path), "digest": model.digest, "version": version}
        atomic_write(self.keys.path.with_name("model.json"), json.dumps(chosen))
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while self.ask("model")["digest"] != model.digest:
            assert time.monotonic() < until
            time.sleep(0.05)

    def ask(self, path: str, image: bytes | None = None) -> dict[str, object]:
        """Returns what a route for programs answers."""
        headers = {"Authorization": f"Bearer {self.key}"}
        request = Request(f"{self.url}{path}", image, headers)  # noqa: S310 - a server of this test
        with urlopen(request) as response:  # noqa: S310
            found: dict[str, object] = json.load(response)
        return found

    def answer(self, image: bytes) -> dict[str, object]:
        """Returns the answer to an image."""
        return self.ask("predict", image)


@pytest.fixture(scope="module")
def server(trained: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "log").mkdir()
    address, keys = folder / "address.json", KeyFile(folder / "keys.json")
    key, _ = keys.add("page", limited=False)
    chosen = {"model": str(trained.path), "digest": trained.digest, "version": "phantoms/3"}
    (folder / "model.json").write_text(json.dumps(chosen))
    command = [sys.executable, "-m", "medimg.serving", "--model-file", str(folder / "model.json")]
    command += ["--address-file", str(address), "--keys", str(keys.path), "--log-folder", str(folder / "log")]
    with (folder / "out").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while not address.exists():
            assert process.poll() is None, (folder / "out").read_text()
            time.sleep(0.02)
        yield Server(f"http://127.0.0.1:{json.loads(address.read_text())['port']}/", keys, key, process)
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def new_page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Page]]:
    """Opens tabs in one browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as socket:
        counted = numbers()
        yield lambda: Page(socket, counted)


@pytest.fixture
def page(new_page: Callable[[], Page], server: Server) -> Iterator[Page]:
    """A tab of its own; nothing in it may go wrong, and nothing may be asked of another address."""
    tab = new_page()
    yield tab
    assert tab.trouble == []
    assert [address for address in tab.requests if not address.startswith((server.url, "blob:"))] == []
    tab.close()


@pytest.fixture(scope="module")
def images(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few images: two that can be read, one that is cut off, one that is none, and a DICOM."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    folder = tmp_path_factory.mktemp("images")
    clear, nodule = min(phantoms.glob("test/CLEAR/*")), min(phantoms.glob("test/NODULE/*"))
    (folder / "broken.png").write_bytes(nodule.read_bytes()[:600])
    (folder / "=letter.txt").write_text("Dear colleague")
    pixels = np.asarray(Image.open(nodule).convert("L"))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset("film.dcm", {}, file_meta=meta, preamble=bytes(128))
    film.SOPClassUID, film.SOPInstanceUID, film.PatientName = SecondaryCaptureImageStorage, generate_uid(), "DOE^CANARY"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelData = 8, 8, 7, pixels.tobytes()
    film.save_as(folder / "film.dcm")
    made = {name: folder / name for name in ("broken.png", "=letter.txt", "film.dcm")}
    return {"clear": clear, "nodule": nodule, **made}


def sign_in(page: Page, server: Server, **window: object) -> None:
    """Opens the page and signs in."""
    page.open(server.url, **window)  # type: ignore[arg-type]
    page.wait("document.querySelector('#sign-in').open")
    page.write(server.key)
    page.press("Enter")
    page.wait(OPEN)


def test_a_wrong_key_is_refused_and_the_right_one_opens_the_page(page: Page, server: Server) -> None:
    """The session lasts when the page is loaded again, ends with the sign-out, and no script can read it."""
    page.open(server.url)
    page.wait("document.querySelector('#sign-in').open")
    page.run("times = 0; document.querySelector('#sign-in').addEventListener('close', () => times += 1)")
    for _ in range(4):
        page.press("Escape")  # closes nothing for long: there is nothing behind it
        page.wait("document.querySelector('#sign-in').open && document.activeElement.id === 'key'")
    page.wait("times === 4 && document.querySelector('#sign-in').open")
    assert not page.run(OPEN)
    page.write("wrong")
    page.press("Enter")
    assert "not right" in page.wait("document.querySelector('#sign-in-error').textContent")
    page.write(server.key)
    page.press("Enter")
    page.wait(OPEN)
    assert page.run("document.cookie") == ""
    assert page.run("document.querySelector('#model-name').textContent") == "phantoms/3"
    page.open(server.url)
    page.wait(OPEN)
    page.click("#sign-out")
    page.wait("document.querySelector('#sign-in').open")


def test_several_images_get_the_answers_of_the_api(
    page: Page, server: Server, images: dict[str, Path], trained: ModelFolder, tmp_path: Path
) -> None:
    """Bars and threshold stand where the numbers are; what cannot be read says why; a DICOM is drawn."""
    sign_in(page, server)
    page.choose(*images.values())
    page.wait(ANSWERED.format(5))
    for place, name in ((1, "clear"), (2, "nodule"), (5, "film.dcm")):
        page.click(f"#strip li:nth-child({place}) button")
        answer = server.answer(images[name].read_bytes())
        assert page.run(LABEL) == answer["label"]
        page.wait("document.querySelector('#picture').naturalWidth === 64")
        for label, share in answer["probabilities"].items():  # type: ignore[attr-defined]
            bar = f"document.querySelector('.bar[data-class={label}]')"
            width = float(page.run(f"{bar}.querySelector('.fill').style.width")[:-1])
            assert width == pytest.approx(share * 100, abs=1e-3)  # of which a browser keeps six digits
            assert page.run(f"{bar}.querySelector('.share').textContent").rstrip("%") == f"{share * 100:.1f}"
        limit = trained.record.thresholds["NODULE"]
        place_of_mark = page.run(
            "((m, t) => (m.x + m.width / 2 - t.x) / t.width)(...['.mark', '.track'].map(s =>"
            "document.querySelector('.bar[data-class=NODULE] ' + s).getBoundingClientRect()))"
        )
        assert place_of_mark == pytest.approx(limit, abs=0.005)
        assert bool(page.run("document.querySelector('.doubt') !== null")) is answer["uncertain"]
    page.click("#strip li:nth-child(3) button")
    assert "download it again" in page.run("document.querySelector('#verdict').textContent")
    page.click("#strip li:nth-child(4) button")
    assert "Choose a picture" in page.run("document.querySelector('#verdict').textContent")
    assert page.run("document.querySelector('#explain').hidden")
    page.send(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=page.context
    )
    page.click("#download")
    file, until = tmp_path / "medimg-answers.csv", time.monotonic() + 10
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["file"] for row in rows] == [
        images["clear"].name, images["nodule"].name, "broken.png", "'=letter.txt", "film.dcm"
    ]  # fmt: skip
    nodule = server.answer(images["nodule"].read_bytes())
    assert float(rows[1]["p(NODULE)"]) == nodule["probabilities"]["NODULE"]  # type: ignore[index]
    assert rows[2]["error"].startswith("This file ends") and rows[2]["label"] == ""


def test_everything_can_be_done_with_the_keyboard(page: Page, server: Server, images: dict[str, Path]) -> None:
    """Add, go from image to image, read about the model, remove; the focus is never lost."""
    sign_in(page, server)
    focus = "document.activeElement.id || document.activeElement.className"
    page.send("Page.setInterceptFileChooserDialog", enabled=True)
    assert page.run(focus) == "choose"
    page.press("Enter")
    page.choose(images["clear"], images["nodule"])
    page.wait(ANSWERED.format(2))
    page.run("document.querySelector('.skip').focus()")
    reached = []
    while "thumb" not in (reached[-1] if reached else "") and len(reached) < 20:
        page.press("Tab")
        reached.append(page.run(focus))
    assert reached[:4] == ["about-open", "sign-out", "remove", "add"]
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("ArrowRight")
    assert page.run("document.activeElement.getAttribute('aria-current')") == "true"
    assert page.run("document.querySelector('#file-name').textContent") == images["nodule"].name
    assert "thumb" in page.run(focus)
    page.run("document.querySelector('#about-open').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#about').open")
    assert "Intended use" in page.run("document.querySelector('#about').textContent")
    assert page.run("document.querySelector('#about table') !== null")
    page.press("Escape")
    assert page.run(focus) == "about-open"
    page.run("document.querySelector('#remove').focus()")
    page.press("Enter")
    assert page.run("document.querySelector('#file-name').textContent") == images["clear"].name
    page.press("Enter")
    assert page.run(focus) == "choose"
    assert "Removed" in page.run("document.querySelector('#spoken').textContent")


def test_the_heat_map_lies_over_the_picture(page: Page, server: Server, images: dict[str, Path]) -> None:
    """It is asked for when somebody wants it, covers the picture, and the slider fades it."""
    sign_in(page, server)
    page.choose(images["nodule"])
    page.wait(LABEL)
    assert not any("explain" in address for address in page.requests)
    page.click("#heat-switch")
    assert "Asking the network" in page.wait("document.querySelector('#heat-said').textContent")
    page.wait("!document.querySelector('#heat').hidden", 90)
    boxes = page.run(
        "['#heat', '#picture'].map(s => JSON.stringify(document.querySelector(s).getBoundingClientRect()))"
    )
    assert boxes[0] == boxes[1]
    drawn = "document.querySelector('#heat').getContext('2d').getImageData(0, 0, 64, 64).data.some(value => value > 0)"
    assert page.run(drawn) == ("Nothing" not in page.run("document.querySelector('#heat-said').textContent"))
    before = float(page.run("getComputedStyle(document.querySelector('#heat')).opacity"))
    page.run("document.querySelector('#heat-opacity').focus()")
    page.press("End")
    assert float(page.run("getComputedStyle(document.querySelector('#heat')).opacity")) == 1 > before
    page.press("Home")
    assert float(page.run("getComputedStyle(document.querySelector('#heat')).opacity")) == 0
    page.run("document.querySelector('#heat-class').focus()")
    page.press("ArrowUp" if page.run("document.querySelector('#heat-class').value") == "NODULE" else "ArrowDown")
    page.wait("document.querySelector('#heat-said').textContent.includes('CLEAR')")


@pytest.mark.parametrize("width", [390, 320])
def test_a_telephone_shows_the_whole_width(page: Page, server: Server, images: dict[str, Path], width: int) -> None:
    """Nothing scrolls sideways, empty or full, and the note of what this is not stays in sight."""
    sign_in(page, server, width=width, height=700)
    wide = "document.documentElement.scrollWidth"
    assert page.run(wide) == width
    page.choose(images["clear"], images["nodule"], images["broken.png"])
    page.wait(ANSWERED.format(3))
    assert page.run(wide) == width
    cut = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&"
        "!e.closest('.strip, .spoken, .scroll, dialog')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.run(cut) == []
    assert page.run("document.querySelector('footer').getBoundingClientRect().bottom <= innerHeight")
    page.click("#about-open")
    assert page.run(wide) == width


# Luminance and contrast as WCAG 2.2 defines them; grounds with a picture or a transparent part are looked through.
CONTRAST = """(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => numbers(text).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = one => { for (let at = one; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return getComputedStyle(at).backgroundColor;
  } return 'rgb(255,255,255)'; };
  const weak = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest('.spoken, :disabled')) continue;
    const style = getComputedStyle(one), [a, b] = [light(style.color), light(ground(one))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) weak.push([one.textContent.slice(0, 40), Math.round(ratio * 100) / 100]);
  }
  return weak;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_contrast_and_all_controls_have_names(
    page: Page, server: Server, images: dict[str, Path], dark: bool
) -> None:
    """In light and dark: WCAG 2.2 AA for each text on the page; each control says what it is."""
    page.open(server.url, dark=dark)
    page.wait("document.querySelector('#sign-in').open")
    assert page.run(CONTRAST) == []
    sign_in(page, server, dark=dark)
    assert page.run(CONTRAST) == []
    page.choose(images["clear"], images["broken.png"])
    page.wait(ANSWERED.format(2))
    assert page.run(CONTRAST) == []
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "textbox", "slider", "combobox", "link", "image", "dialog", "region", "table"}
    seen = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert [role for role, name in seen if not name and role != "table"] == []
    assert {"button", "image", "region"} <= {role for role, _ in seen}
    levels = page.run(
        "[...document.querySelectorAll('h1, h2, h3')].filter(e => e.checkVisibility()).map(e => e.tagName)"
    )
    assert levels[0] == "H1" and levels.count("H1") == 1
    assert page.run("document.documentElement.lang") == "en"


def test_a_session_that_ends_keeps_the_images(page: Page, server: Server, images: dict[str, Path]) -> None:
    """The key is revoked in the middle: the page asks for another and goes on where it was."""
    key, made = server.keys.add("visitor")
    page.open(server.url)
    page.wait("document.querySelector('#sign-in').open")
    page.write(key)
    page.press("Enter")
    page.wait(OPEN)
    page.choose(images["clear"])
    page.wait(LABEL)
    server.keys.revoke(made.id)
    page.choose(images["nodule"])
    page.wait("document.querySelector('#sign-in').open")
    assert "still here" in page.run("document.querySelector('#sign-in-why').textContent")
    page.write(server.key)
    page.press("Enter")
    page.wait(ANSWERED.format(2))


def test_a_lost_connection_is_said_and_waited_for(page: Page, server: Server, images: dict[str, Path]) -> None:
    """The image is asked about when the network is back."""
    sign_in(page, server)
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.send("Network.emulateNetworkConditions", offline=True, **conditions)
    page.choose(images["clear"])
    assert "cannot be reached" in page.wait("document.querySelector('#connection').textContent")
    assert "Waiting for the server" in page.wait("document.querySelector('#verdict .wait').textContent")
    page.trouble.clear()  # the browser complains of each request that it could not send
    page.send("Network.emulateNetworkConditions", offline=False, **conditions)
    page.wait(LABEL)
    assert page.run("document.querySelector('#connection').hidden")
    page.trouble.clear()


def test_a_server_that_goes_on_to_another_model_mixes_nothing(
    page: Page, server: Server, images: dict[str, Path], trained: ModelFolder, tmp_path: Path
) -> None:
    """Each answer keeps the thresholds of its model, and a heat map is of the model that answered or none."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "other", copy_function=shutil.copyfile))
    changes = {"thresholds": {"NODULE": 0.123}, "uncertain": {"NODULE": (0.111, 0.144)}}
    other = ModelFolder.seal(folder, trained.record.model_copy(update=changes))
    sign_in(page, server)
    page.choose(images["clear"])
    page.wait(LABEL)
    server.change(other, "phantoms/4")
    try:
        page.choose(images["nodule"])
        page.wait("document.querySelector('#model-name').textContent === 'phantoms/4'")
        page.wait(ANSWERED.format(2))
        told = []
        for place in (2, 1):
            page.click(f"#strip li:nth-child({place}) button")
            told.append(page.run("document.querySelector('#verdict').textContent"))
        assert all(words in told[0] for words in ("threshold 12.3% · uncertain 11.1% to 14.4%", "phantoms/4"))
        assert "phantoms/3" in told[1] and "11.1% to 14.4%" not in told[1]
        page.click("#heat-switch")
        page.wait("document.querySelector('#heat-said').textContent.includes('went on to another model')", 90)
        assert page.run("document.querySelector('#heat').hidden")
    finally:
        server.change(trained, "phantoms/3")


def test_images_unlike_those_of_validation_raise_an_alarm(page: Page, server: Server, phantoms: Path) -> None:
    """Seventy films with black and white exchanged: the page warns, and says what differs where that is asked."""
    sign_in(page, server)
    assert page.run("document.querySelector('#alarm').hidden")
    for path in sorted(phantoms.glob("*/*/*.png"))[:70]:
        content = io.BytesIO()
        Image.fromarray(255 - np.asarray(Image.open(path).convert("L"))).save(content, "PNG")
        server.answer(content.getvalue())
    until = time.monotonic() + 10
    while server.ask("health")["status"] != "alarm":  # it is reckoned once a second
        assert time.monotonic() < until, server.ask("health")
        time.sleep(0.1)
    page.open(server.url)
    page.wait("!document.querySelector('#alarm').hidden")
    page.click("#alarm summary")
    assert page.run("document.querySelectorAll('#alarm li').length") > 0
    assert page.run(CONTRAST) == []
