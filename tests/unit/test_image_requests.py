"""From a request's body to an image's bytes: every form it may take, and whatever else may come."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medimg.errors import EndpointError, ImageRejected
from medimg.inference.answers import read_answer, refusal
from medimg.serving.requests import MAX_IMAGES, Images, RequestRefused, images_of

IMAGE = b"\x89PNG\r\n\x1a\n--limit\r\n\0\xff pixels"


def form(*parts: tuple[str, bytes], boundary: str = "limit", end: bytes = b"--\r\n") -> bytes:
    """Returns a form of parts with these headers."""
    mark = b"--" + boundary.encode()
    lines = [mark + b"\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n" for headers, content in parts]
    return b"".join(lines) + mark + end


def file(name: str = "file") -> str:
    """Returns the header of a part that is a file."""
    return f'Content-Disposition: form-data; name="{name}"; filename="chest.png"\r\nContent-Type: image/png'


FIELD = 'Content-Disposition: form-data; name="comment"'


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "IMAGE/JPEG", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain", ""],
)
def test_a_body_is_the_image_whatever_it_is_called(content_type: str) -> None:
    """Its signature decides; `curl --data-binary` calls everything a form."""
    assert images_of(content_type, IMAGE) == Images((IMAGE,))


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_json_that_is_not_called_so_is_refused_with_the_header_to_send(content_type: str) -> None:
    """`curl -d` calls everything a form, and the body is no JPEG either."""
    with pytest.raises(RequestRefused, match="Add the header Content-Type: application/json") as caught:
        images_of(content_type, b' {"image": "AAAA"}')
    assert (caught.value.status, caught.value.code) == (400, "bad-request")
    without_preamble = b"{" * 128 + b"DICM"
    assert images_of(content_type, without_preamble) == Images((without_preamble,))


def test_a_picture_that_is_called_json_is_a_picture() -> None:
    """No picture begins as a JSON object does."""
    assert images_of("application/json", IMAGE) == Images((IMAGE,))


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(IMAGE).decode(),
        base64.encodebytes(IMAGE * 10).decode(),
        "data:image/png;base64," + base64.b64encode(IMAGE).decode(),
        "data:;base64," + base64.b64encode(IMAGE).decode(),
        "DATA:image/png;name=x.png;BASE64," + base64.b64encode(IMAGE).decode(),
    ],
)
def test_base64_in_json_is_decoded(text: str) -> None:
    """Plain, in lines, and as a data URL."""
    body = json.dumps({"image": text}).encode()
    assert images_of("application/json; charset=utf-8", b" \n" + body) in (Images((IMAGE,)), Images((IMAGE * 10,)))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b'{"image": 3}',
        b'{"image": null}',
        b'{"image": "a", "url": "b"}',
        b'{"image": "!!!!"}',
        b'{"image": "abc"}',
        b'{"images": []}',
        b'{"images": "abcd"}',
        b'{"images": ["abcd", 3]}',
        b'{"images": ["abcd"], "image": "abcd"}',
        b'{"image": "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"}',
        b'{"image": "data:image/png,abc"}',
        b'{"image": "\xff"}',
        b'{"a": ' * 100_000,
        b'{"image": ' + b"9" * 100_000 + b"}",
    ],
)
def test_json_without_an_image_is_a_bad_request(body: bytes) -> None:
    """Never anything but the typed refusal, also where the parser gives up."""
    with pytest.raises(RequestRefused) as caught:
        images_of("application/json", body)
    assert (caught.value.status, caught.value.code) == (400, "bad-request")


def test_json_of_millions_of_parts_is_refused_before_it_is_read() -> None:
    """It would take a gigabyte, and stop the server for seconds; as many data URLs as there may be are far fewer."""
    url = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    assert images_of("application/json", json.dumps({"images": [url] * MAX_IMAGES}).encode()).several
    for part in (b"{},", b"[],", b"0,"):
        with pytest.raises(RequestRefused, match="more than 1,000 parts"):
            images_of("application/json", b'{"image": "AAAA", "x": [' + part * 100_000 + b"0]}")


def test_urls_are_off_unless_switched_on() -> None:
    """And where they are on, the limit goes with them."""
    body = b'{"url": "https://images.example.org/1.png"}'
    with pytest.raises(RequestRefused, match="url_hosts") as caught:
        images_of("application/json", body)
    assert caught.value.status == 403
    asked: list[tuple[str, int]] = []

    def fetch(url: str, limit: int) -> bytes:
        asked.append((url, limit))
        return IMAGE

    assert images_of("application/json", body, max_bytes=999, fetch=fetch) == Images((IMAGE,))
    assert asked == [("https://images.example.org/1.png", 999)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("image/png", bytes(101)),
        ("application/json", json.dumps({"image": base64.b64encode(bytes(101)).decode()}).encode()),
        ("application/json", json.dumps({"image": "A" * 10_000_000}).encode()),
        ("multipart/form-data; boundary=limit", form((file(), bytes(101)))),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_decoded(content_type: str, body: bytes) -> None:
    """By the size of the image, in every form."""
    with pytest.raises(RequestRefused, match="100 bytes") as caught:
        images_of(content_type, body, max_bytes=100)
    assert (caught.value.status, caught.value.code) == (413, "too-large")


@pytest.mark.parametrize("wrap", [base64.b64encode, base64.encodebytes])
@pytest.mark.parametrize("size", [99, 100])
def test_what_just_fits_is_taken_in_base64(wrap: object, size: int) -> None:
    """With and without line breaks."""
    assert callable(wrap)
    body = json.dumps({"image": wrap(bytes(size)).decode()}).encode()
    assert images_of("application/json", body, max_bytes=100) == Images((bytes(size),))


def test_the_file_of_a_form_is_the_image() -> None:
    """Fields before it, a preamble, blanks after the boundary, and its bytes as they were."""
    body = form((FIELD, b"hello"), (file(), IMAGE))
    kind = "multipart/form-data; boundary=limit"
    assert images_of(kind, body) == Images((IMAGE,))
    assert images_of(kind, b"preamble\r\n" + body) == Images((IMAGE,))
    assert images_of(kind, body.replace(b"--limit\r\nContent-Disp", b"--limit \t\r\nContent-Disp")) == Images((IMAGE,))
    assert images_of('Multipart/Form-Data; boundary="limit"', body) == Images((IMAGE,))
    assert images_of(kind, form((file().lower(), b""))) == Images((b"",))


def test_several_images_come_in_their_order() -> None:
    """The files of a form, and a list in JSON: that is a list of answers even for one."""
    found = images_of(
        "multipart/form-data; boundary=limit", form((file(), IMAGE), (FIELD, b"x"), (file("b"), b"other"))
    )
    assert found == Images((IMAGE, b"other"), several=True)
    texts = [base64.b64encode(content).decode() for content in (IMAGE, b"other")]
    for number in (1, 2):
        found = images_of("application/json", json.dumps({"images": texts[:number]}).encode())
        assert found == Images((IMAGE, b"other")[:number], several=True)


@pytest.mark.parametrize("count", [MAX_IMAGES, MAX_IMAGES + 1])
def test_a_request_brings_so_many_images_and_no_more(count: int) -> None:
    """One too many is refused with the number that is allowed, in both forms."""
    for kind, body in (
        ("multipart/form-data; boundary=limit", form(*[(file(), IMAGE)] * count)),
        ("application/json", json.dumps({"images": [base64.b64encode(IMAGE).decode()] * count}).encode()),
    ):
        if count <= MAX_IMAGES:
            assert len(images_of(kind, body).contents) == count
        else:
            with pytest.raises(RequestRefused, match="at most 32") as caught:
                images_of(kind, body)
            assert (caught.value.status, caught.value.code) == (413, "too-many-images")


def test_a_boundary_inside_the_image_needs_a_line_of_its_own() -> None:
    """IMAGE holds the boundary's text within a line, as random bytes may."""
    assert b"--limit" in IMAGE
    assert images_of("multipart/form-data; boundary=limitless", form((file(), IMAGE), boundary="limitless")) == Images(
        (IMAGE,)
    )


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form((file(), IMAGE))),
        ("multipart/form-data; boundary=", form((file(), IMAGE))),
        ("multipart/form-data; boundary=" + "x" * 71, form((file(), IMAGE), boundary="x" * 71)),
        ('multipart/form-data; boundary="a\r\nb"', b""),
        ("multipart/form-data; boundary*=utf-8''%ff%fe", b""),
        ("multipart/form-data; boundary=é", b""),
        ("multipart/form-data; boundary=limit", b""),
        ("multipart/form-data; boundary=limit", b"--limit"),
        ("multipart/form-data; boundary=limit", b"--limit\r\n"),
        ("multipart/form-data; boundary=limit", b"--limit--\r\n"),
        ("multipart/form-data; boundary=limit", form((FIELD, b"hello"))),
        ("multipart/form-data; boundary=limit", form((file(), IMAGE))[:-11]),
        ("multipart/form-data; boundary=limit", form((file() + "\r\nX: " + "x" * 9000, IMAGE))),
        ("multipart/form-data; boundary=limit", form((FIELD, b"x")).replace(b"--limit--", b"--limitless")),
        ("multipart/form-data; boundary=limit", form(("", IMAGE))),
        ("multipart/form-data; boundary=limit", form(*[(FIELD, b"x")] * 70, (file(), IMAGE))),
        ("multipart/form-data; boundary=limit", form(("Content-Disposition: form-data; filename*=x'", IMAGE))[:60]),
    ],
)
def test_a_broken_form_is_a_bad_request(content_type: str, body: bytes) -> None:
    """No boundary, a hostile one, no end, no file, headers or parts without measure."""
    with pytest.raises(RequestRefused) as caught:
        images_of(content_type, body)
    assert caught.value.status == 400


@given(st.binary(max_size=300), st.sampled_from([file(), FIELD, "", "Content-Disposition: \xe9;;=*'"]))
def test_whatever_comes_in_a_form_is_bytes_or_a_refusal(content: bytes, headers: str) -> None:
    """Also where the content looks like a form itself."""
    for body in (content, b"--limit\r\n" + content, form((headers, content)), b"--limit\r\n" + content + b"\r\n\r\n"):
        try:
            assert images_of("multipart/form-data; boundary=limit", body).contents
        except RequestRefused as refused:
            assert refused.status == 400


@given(st.binary(max_size=200).filter(lambda content: b"\r\n--limit" not in content))
def test_a_file_in_a_form_comes_out_as_it_went_in(content: bytes) -> None:
    """For any bytes that do not hold the delimiter."""
    assert images_of("multipart/form-data; boundary=limit", form((FIELD, b"x"), (file(), content))) == Images(
        (content,)
    )


def test_a_hostile_form_takes_no_time() -> None:
    """Ten megabytes of boundaries, and of headers."""
    for body in (b"--limit\r\n" * 1_000_000, b"--limit\r\nA: b\r\n" * 700_000, b"\r\n--limi" * 1_000_000):
        started = time.perf_counter()
        with pytest.raises(RequestRefused):
            images_of("multipart/form-data; boundary=limit", body)
        assert time.perf_counter() - started < 1


def test_a_refusal_comes_back_as_it_was_sent() -> None:
    """What a server writes is what its client raises."""
    sent = RequestRefused(413, "too-large", "is larger than 1 MB")
    with pytest.raises(ImageRejected) as caught:
        read_answer(413, json.dumps(refusal(sent)).encode())
    assert (caught.value.code, caught.value.message) == ("too-large", "is larger than 1 MB")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b'{"error": "the API key is missing"}', "'demo' answered 401: the API key is missing"),
        (403, b'{"message": "Forbidden"}', "403: Forbidden"),
        (502, b'{"Message": "Bad gateway"}', "502: Bad gateway"),
        (500, b'{"error": "{not json"}', r"500: \{not json"),
        (500, b'{"error": {"code": "x"}}', "500: "),
        (200, b"{}", r"200: \{\}"),
        (200, b"[1]", r"200: \[1\]"),
        (503, b"<html>busy</html>", "503: <html>busy"),
        (500, b"\xff" * 1000, "500: "),
        (500, b"[" * 100_000, "500: "),
    ],
)
def test_anything_but_an_answer_is_an_error_that_says_what_came(status: int, body: bytes, told: str) -> None:
    """Of our servers, and of what stands before them."""
    with pytest.raises(EndpointError, match=told):
        read_answer(status, body, endpoint="demo")


def test_a_refusal_for_size_by_what_stands_before_the_server_is_one_of_the_image() -> None:
    """An HTTP API says so in its own words."""
    with pytest.raises(ImageRejected) as caught:
        read_answer(413, b'{"message": "Request Entity Too Large"}')
    assert caught.value.code == "too-large"


def test_requests_answers_and_urls_need_the_standard_library_only() -> None:
    """They are a part of functions whose zip holds a few files of ours and nothing else."""
    modules = ("requests", "urls", "access.keys", "clouds.http_api", "clouds.environment")
    imports = "".join(f"import medimg.serving.{module}\n" for module in modules)
    code = (
        f"import sys; before = set(sys.modules)\n{imports}"
        "print(*{n.split('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["medimg"]
