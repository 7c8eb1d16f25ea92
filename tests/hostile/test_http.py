"""Hostile HTTP clients at a live server: what each gets, and that the next client is served."""

import gzip
import http.client
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from PIL import Image

from i2ii_spool.server.upload import MAX_IN_MEMORY
from tests.support.http import END, error_of, multipart, part
from tests.support.pictures import saved
from tests.support.raw_http import GOOD, PICTURE, Wire, head, length
from tests.support.seams import serve_with
from tests.support.service import Service, get_json, wait_until

pytestmark = pytest.mark.xdist_group("http")  # one service serves them all

MIB = 2**20

LARGE = multipart(("image", saved(Image.effect_noise((800, 800), 90), "PNG")), ("prompt", b"sepia"))
BEGUN = 2 * MAX_IN_MEMORY
"""Bytes of it after which its picture goes to the disk as it arrives."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("target"))
    serve_with(service, {"connection.LINGER_SECONDS": 0.5}, max_upload_mib="1")
    yield service
    service.stop_all()


@pytest.fixture
def url(target: Service) -> Iterator[str]:
    """A server that answers before and after, has logged no error of its own, and keeps nothing."""
    url = target.url
    yield url
    assert get_json(f"{url}/livez") == {"status": "alive"}
    assert " failed" not in target.read_log()
    assert "Traceback" not in target.read_log()
    wait_until(lambda: not list(target.spool.staging.iterdir()))


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    with Wire(url) as wire:
        yield wire


# --- requests that are none -----------------------------------------------------------------------

NONSENSE = {
    "words": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "nulls": bytes(1000) + b"\r\n\r\n",
    "other-version": b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "long-line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long-header": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "many-headers": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    "header-without-colon": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nhello\r\n\r\n",
    "folded-header": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "null-in-header": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "two-lengths": (
        b"POST /edit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nhello"
    ),
    "length-and-chunks": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    ),
    "negative-length": b"POST /edit HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nhello",
    "length-of-words": (
        b"POST /edit HTTP/1.1\r\nHost: localhost\r\nContent-Length: five\r\n\r\nhello"
    ),
    "broken-chunk": (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
    ),
    "unknown-encoding": (
        b"POST /edit HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: banana\r\n\r\n"
    ),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_malformed_http_gets_json_error(wire: Wire, nonsense: str) -> None:
    wire.send(NONSENSE[nonsense])
    status, code = error_of(wire.answer())
    assert status in (400, 405)
    assert code in ("bad_request", "method_not_allowed")


PATHS = [
    "/status/../../etc/passwd",
    "/status/..%2f..%2f..%2fetc%2fpasswd",
    "/status/%2e%2e/%2e%2e/etc/passwd",
    "/result/..%5c..%5cetc",
    "/status/20260101-000000-000-aaaaaa%00",
    "/status/20260101-000000-000-aaaaaa/../../x",
    "/status/20260101-000000-000-aaaaaa_..%2f..%2fx",
    "/status/２０２６0101-000000-000-aaaaaa".encode().decode("latin-1"),
    "/status/" + "a" * 5000,
    "/jobs?after=../../etc",
    "/jobs?state=../trash",
    "/jobs?limit=999999999999999999999",
    "/jobs?limit=1e9",
    "/result/20260101-000000-000-aaaaaa?n=..",
    "/status/20260101-000000-000-aaaaaa?wait=nan",
    "/status/20260101-000000-000-aaaaaa?wait=inf",
    "/status/20260101-000000-000-aaaaaa?wait=-1",
    "//etc/passwd",
    "/\x1b[2J",
    "*",
    "http://elsewhere.example/etc/passwd",
]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_path_traversal_is_refused(wire: Wire, path: str) -> None:
    wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    status, _code = error_of(wire.answer())
    assert status in (400, 404, 421)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "PATCH", "BREW"])
def test_other_methods_are_refused(wire: Wire, method: str) -> None:
    target = "a:80" if method == "CONNECT" else "/edit"
    wire.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert error_of(wire.answer())[0] in (400, 404, 405, 421)


# --- bodies ---------------------------------------------------------------------------------------


def test_too_large_content_length_is_refused_before_the_body(wire: Wire) -> None:
    wire.send(head(f"Content-Length: {10**15}"))
    assert error_of(wire.answer()) == (413, "too_large")


@pytest.mark.parametrize(
    "where",
    ["in a picture", "before the first part", "in a part's head", "in a prompt", "after the last"],
)
def test_an_endless_body_is_cut_off(wire: Wire, where: str) -> None:
    begins = {
        "in a picture": part("image", b"")[:-2],
        "before the first part": b"",
        "in a part's head": b"--b\r\nX: ",
        "in a prompt": part("prompt", b"")[:-2],
        "after the last": GOOD,
    }
    filling = b"a" * 500 + b"\r\n"
    if where == "in a picture":
        filling = bytes(502)
    wire.send(head("Transfer-Encoding: chunked"))
    wire.send(b"%x\r\n%s\r\n" % (len(begins[where]), begins[where]) if begins[where] else b"")
    chunk = filling * 100
    sent = 0
    while sent < 30 * MIB and wire.send(b"%x\r\n%s\r\n" % (len(chunk), chunk)):
        sent += len(chunk)
    if sent >= 30 * MIB or where in ("in a picture", "before the first part", "after the last"):
        assert error_of(wire.answer())[0] in (400, 413)
    assert wire.is_closed()


def test_form_with_thousands_of_parts_is_refused(wire: Wire) -> None:
    body = b"".join(part(f"field{number}", b"x") for number in range(5000)) + END
    wire.send(head(length(body)) + body)
    assert error_of(wire.answer()) == (400, "invalid_request")


def test_form_with_thousands_of_pictures_is_refused(wire: Wire, target: Service) -> None:
    body = b"".join(part("image", b"x") for _ in range(5000)) + END
    wire.send(head(length(body)) + body)
    assert error_of(wire.answer()) == (400, "invalid_request")
    wait_until(lambda: not list(target.spool.staging.iterdir()))


BODIES = {
    "nothing": b"",
    "no-boundary": b"hello",
    "only-the-end": END,
    "no-end": part("image", PICTURE) + part("prompt", b"sepia"),
    "cut-in-a-head": part("image", PICTURE) + b"--b\r\nContent-Disp",
    "no-disposition": b"--b\r\n\r\nhello\r\n" + END,
    "no-name": b"--b\r\nContent-Disposition: form-data\r\n\r\nhello\r\n" + END,
    "nested": part(
        "image", b"--c\r\n\r\nx\r\n--c--\r\n", "Content-Type: multipart/mixed; boundary=c"
    )
    + END,
    "base64": part("image", b"aGVsbG8=", "Content-Transfer-Encoding: base64")
    + part("prompt", b"sepia")
    + END,
    "gzip": part("image", PICTURE, "Content-Encoding: gzip") + part("prompt", b"\xff\xfe") + END,
    "many-headers": b"--b\r\n" + b"X: a\r\n" * 1000 + b"\r\nhello\r\n" + END,
    "long-header": b"--b\r\nX: " + b"a" * 100_000 + b"\r\n\r\nhello\r\n" + END,
    "prompt-twice": part("prompt", b"a") + part("prompt", b"b") + GOOD,
    "prompt-not-utf-8": part("image", PICTURE) + part("prompt", b"\xff\xfe\xfd") + END,
    "prompt-of-nulls": part("image", PICTURE) + part("prompt", b"") + END,
    "not-gzipped": GOOD,
    "a-mask": part("mask", PICTURE) + GOOD,
    "wrong-length-of-part": part("image", PICTURE, "Content-Length: 99999999")
    + part("prompt", b"")
    + END,
}


@pytest.mark.parametrize("body", BODIES)
def test_malformed_form_is_refused_and_leaves_nothing(
    wire: Wire, target: Service, body: str
) -> None:
    before = len(list(target.spool.incoming.iterdir()))
    encoding = "gzip" if body == "not-gzipped" else "identity"
    wire.send(head(length(BODIES[body]), f"Content-Encoding: {encoding}") + BODIES[body])
    assert error_of(wire.answer())[0] in (400, 413, 415)
    assert len(list(target.spool.incoming.iterdir())) == before


def test_compressed_body_counts_at_its_decompressed_size(wire: Wire) -> None:
    body = gzip.compress(part("image", bytes(100 * MIB)) + END)
    assert len(body) < MIB
    wire.send(head(length(body), "Content-Encoding: gzip") + body)
    assert error_of(wire.answer()) == (413, "too_large")


def test_short_content_length_leaves_the_rest_as_a_bad_request(wire: Wire) -> None:
    wire.send(head(length(GOOD[:-20])) + GOOD)
    assert error_of(wire.answer())[0] == 400


def test_a_client_that_goes_away_leaves_nothing(url: str, target: Service) -> None:
    for _ in range(5):
        with Wire(url) as wire:
            wire.send(head(length(LARGE)) + LARGE[:BEGUN])
            wait_until(lambda: list(target.spool.staging.iterdir()))
        wait_until(lambda: not list(target.spool.staging.iterdir()))


@pytest.mark.parametrize(
    "name",
    [
        "a\r\nSet-Cookie: x=1",
        '"; filename="../../x',
        "\x1b]0;x\x07",
        "../../etc/passwd",
        "名" * 60,
        "<script>",
    ],
)
def test_job_name_cannot_inject_a_header(url: str, name: str) -> None:
    boundary = secrets.token_hex(8)
    fields = part("name", name.encode(), boundary=boundary) + part(
        "prompt", b"sepia", boundary=boundary
    )
    body = fields + part("image", PICTURE, boundary=boundary) + f"--{boundary}--\r\n".encode()
    with Wire(url) as wire:
        wire.send(head(length(body), boundary=boundary) + body)
        response = http.client.HTTPResponse(wire.socket)
        response.begin()
        assert response.status == 202
        assert "Set-Cookie" not in response.headers
        assert re.fullmatch(r"/status/[0-9A-Za-z._-]+", response.headers["Location"])


# --- slowness -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that waits one second instead of thirty."""
    service = Service(tmp_path_factory.mktemp("impatient"))
    yield serve_with(
        service, {"connection.KEEPALIVE_SECONDS": 1.0, "limits.SLOW_UPLOAD_GRACE_SECONDS": 1.0}
    )
    service.stop_all()
    assert "Traceback" not in service.read_log()


def drip(wire: Wire, data: bytes) -> None:
    """Send a byte each tenth of a second, until the server closes the connection."""
    for byte in data:
        if not wire.send(bytes([byte])):
            return
        time.sleep(0.1)  # the slowness is the point


@pytest.mark.parametrize("sent", ["nothing", "a request line", "after a request"])
def test_slow_request_head_times_out(impatient: str, sent: str) -> None:
    with Wire(impatient) as wire:
        if sent == "after a request":
            wire.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wire.answer().status == 200
        if sent != "nothing":
            drip(wire, b"GET /livez HTTP/1.1\r\nHost: " + b"a" * 200)
        assert wire.is_closed()


def test_slow_body_times_out(impatient: str) -> None:
    with Wire(impatient) as wire:
        wire.send(head(length(GOOD)) + GOOD[:100])
        drip(wire, GOOD[100:130])
        assert error_of(wire.answer()) == (408, "too_slow")
        assert wire.is_closed()


def test_a_refused_body_that_does_not_end_is_cut_off(impatient: str) -> None:
    with Wire(impatient) as wire:
        wire.send(head("Content-Length: 1000000000000", path="/nowhere"))
        assert error_of(wire.answer()) == (404, "not_found")
        while wire.send(bytes(2**10)):
            pass


def test_slow_clients_do_not_block_others(impatient: str) -> None:
    with ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(Wire(impatient)).send(head(length(GOOD)) + GOOD[:100])
        quick = stack.enter_context(Wire(impatient))
        quick.send(head(length(GOOD)) + GOOD)
        assert quick.answer().status == 202


# --- floods ---------------------------------------------------------------------------------------


def test_concurrent_uploads_per_client_are_limited(service: Service) -> None:
    url = service.serve(client_max_uploads="3")
    with ExitStack() as stack:
        slow = [stack.enter_context(Wire(url)) for _ in range(3)]
        for wire in slow:
            wire.send(head(length(LARGE)) + LARGE[:BEGUN])
        wait_until(lambda: len(list(service.spool.staging.iterdir())) == 3)
        one_more = stack.enter_context(Wire(url))
        one_more.send(head(length(GOOD)) + GOOD)
        assert error_of(one_more.answer()) == (429, "too_many_requests")
        slow[0].send(LARGE[BEGUN:])
        assert slow[0].answer().status == 202
        after = stack.enter_context(Wire(url))
        after.send(head(length(GOOD)) + GOOD)
        assert after.answer().status == 202


def test_submits_per_minute_per_client_are_limited(service: Service) -> None:
    url = service.serve(client_submits_per_minute="3")
    answers = []
    for _ in range(4):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request(
            "POST", "/edit", GOOD, {"Content-Type": "multipart/form-data; boundary=b"}
        )
        answer = connection.getresponse()
        answers.append((answer.status, answer.headers.get("Retry-After")))
        connection.close()
    assert answers[:3] == [(202, None)] * 3
    status, retry_after = answers[3]
    assert status == 429
    assert retry_after is not None
    assert 1 <= int(retry_after) <= 20
    assert get_json(f"{url}/jobs")["next"] is None  # looking is not submitting
