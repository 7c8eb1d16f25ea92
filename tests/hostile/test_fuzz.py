"""Random requests at a live server: no 500, and every error in the one JSON shape."""

import http.client
import time
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2ii_spool.jobs.request import EditRequest
from tests.support import UNKNOWN_ID
from tests.support.http import END, error_of, part, raw_part
from tests.support.raw_http import GOOD, PICTURE, Wire, head, length
from tests.support.seams import serve_with
from tests.support.service import Service, get_json

FIELDS = ["image", *EditRequest.model_fields]
METHODS = ["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "get", "X"]
PATHS = [
    "/edit",
    "/status/{}",
    "/result/{}",
    "/jobs/{}",
    "/jobs/{}/retry",
    "/jobs",
    "/system/status",
    "/health",
    "/{}",
]
HEADERS = [
    "Expect: 100-continue",
    "Expect: x",
    "Range: bytes=0-,5-",
    "If-Range: x",
    'If-None-Match: "',
    "If-Modified-Since: never",
    "Accept: image/*",
    "Accept: ;,",
    "Origin: null",
    "Origin: http://[",
    "X-Forwarded-For: ,[,",
    'Forwarded: for="[',
]
TELLING = [
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"--b",
    b"--b--",
    b":",
    b" ",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"\xff",
    b"%",
]

ids = st.one_of(
    st.just(UNKNOWN_ID),
    st.text(max_size=40),
    st.from_regex(r"[0-9-]{19}-[a-z2-7]{6}(_.{0,10})?", fullmatch=True),
)
numbers = st.one_of(st.integers(), st.floats()).map(str)
values = st.one_of(
    st.text(max_size=50),
    numbers,
    st.sampled_from(["auto", "input", "10x10", "png", UNKNOWN_ID, "true"]),
)


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """Forms with known and unknown fields, all kinds of values, with and without an end."""
    body = b""
    for name in draw(
        st.lists(st.one_of(st.sampled_from(FIELDS), st.text(max_size=10)), max_size=6)
    ):
        value = draw(st.one_of(st.just(PICTURE), st.binary(max_size=200), values.map(str.encode)))
        more = draw(
            st.sampled_from(
                ["X: y", "Content-Type: image/png", "Content-Length: 5", "Content-Encoding: gzip"]
            )
        )
        body += part(quote(name), value, more)
    body += draw(st.sampled_from([END, b"", b"--b\r\n"]))
    return head(length(body)) + body


labels = st.one_of(
    st.sampled_from(["utf-8", "gbk", "utf-16", "iso-8859-1", "utf-7", "rot13", "idna", "\\0", ""]),
    st.text(max_size=40),
)
encodings = st.sampled_from(["binary", "base64", "quoted-printable", "8bit", "gzip", "x"])
disposition_parts = st.sampled_from(
    [
        *("form-data", "attachment", ";", "; ", "=", '"', "\\", "'", "\t", "\r\n ", "é"),
        *("name=", 'name="', "name*=UTF-8''", "filename=", 'filename="', 'filename=""'),
        *("image", "image[]", "prompt", "seed", "_charset_", "a;b"),
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> str:
    """Heads of parts: names in every spelling, charsets, encodings, and lines that are none."""
    name = draw(st.sampled_from([*FIELDS, "image[]", "_charset_"]))
    pieces = draw(st.lists(disposition_parts, max_size=8))
    disposition = draw(
        st.sampled_from(
            [
                f'form-data; name="{name}"',
                f'form-data; name={name}; filename=""',
                f'form-data; filename="{"".join(pieces)}"; name="{name}"',
                f'form-data; name="{name}"; {"".join(pieces)}',
                "".join(pieces),
            ]
        )
    )
    more = st.one_of(
        st.builds("Content-Type: text/plain; charset={}".format, labels),
        st.builds("Content-Transfer-Encoding: {}".format, encodings),
        st.builds("Content-Encoding: {}".format, encodings),
        st.just("Content-Type: multipart/mixed; boundary=c"),
        st.text(max_size=20),
    )
    lines = [f"Content-Disposition: {disposition}", *draw(st.lists(more, max_size=2))]
    return "\r\n".join(draw(st.permutations(lines)))


@st.composite
def odd_forms(draw: st.DrawFn) -> bytes:
    """Forms whose heads, charsets and boundaries are odd."""
    boundary = draw(st.sampled_from(["b", "-", "b;x", '"b"', '"b', "", "é", "b" * 100]))
    texts = st.text(max_size=40).flatmap(
        lambda text: st.sampled_from(["utf-8", "gb18030", "utf-16"]).map(text.encode)
    )
    data = st.one_of(st.just(PICTURE), st.just(b""), st.binary(max_size=100), texts)
    parts = draw(st.lists(st.tuples(heads(), data), max_size=5))
    body = b"".join(raw_part(*each, boundary=boundary.strip('"')) for each in parts)
    body += draw(st.sampled_from([f"--{boundary}--\r\n".encode(), END, b""]))
    encoding = draw(st.sampled_from(["X: y", "Content-Encoding: deflate", "Content-Encoding: x"]))
    return head(length(body), encoding, boundary=boundary) + body


@st.composite
def calls(draw: st.DrawFn) -> bytes:
    """Calls of every route and of none, with all kinds of ids and parameters."""
    path = draw(st.sampled_from(PATHS)).format(
        quote(draw(ids), safe=draw(st.sampled_from(["", "/", "/."])))
    )
    names = st.one_of(
        st.sampled_from(["wait", "n", "state", "limit", "after"]), st.text(max_size=5)
    )
    query = urlencode(draw(st.dictionaries(names, values, max_size=3)))
    method = draw(st.sampled_from(METHODS))
    host = draw(st.one_of(st.just("localhost"), st.text(max_size=10)))
    more = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    lines = [
        f"{method} {path}?{query} HTTP/1.1",
        f"Host: {host}",
        "Content-Length: 0",
        *more,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Good requests, in which bytes were changed, left out, doubled or put in."""
    get = (
        f"GET /status/{UNKNOWN_ID}?wait=0 HTTP/1.1\r\n"
        "Host: localhost\r\nRange: bytes=0-5\r\nAccept: */*\r\n\r\n"
    ).encode()
    data = draw(st.sampled_from([head(length(GOOD)) + GOOD, get]))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        upto = at + draw(st.integers(0, 20))
        put = draw(
            st.one_of(
                st.just(b""),
                st.sampled_from(TELLING),
                st.binary(max_size=8),
                st.just(data[at:upto] * 2),
            )
        )
        data = data[:at] + put + data[upto:]
    return data


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = Service(tmp_path_factory.mktemp("fuzzed"))
    constants = {
        "connection.KEEPALIVE_SECONDS": 0.3,
        "limits.SLOW_UPLOAD_GRACE_SECONDS": 0.3,
        "connection.LINGER_SECONDS": 0.1,
    }
    yield serve_with(service, constants, min_free_mib="0", max_queue="1000000")
    service.stop_all()
    assert "Traceback" not in service.read_log()
    assert " ERROR " not in service.read_log()
    assert "Warning" not in service.read_log()  # aiohttp's quote what the client has sent


def check(url: str, request: bytes) -> None:
    with Wire(url) as wire:
        wire.send(request)
        try:
            answer = wire.answer()
        except (ConnectionError, http.client.HTTPException):  # it waited for the rest, and hung up
            return
    body = answer.json() if answer.body else {}
    assert answer.status != 500, body
    assert answer.status != 503 or "reason" in body, body
    if answer.status >= 400 and "reason" not in body:
        error_of(answer)


FUZZ = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    "requests",
    [forms(), odd_forms(), calls(), spoilt()],
    ids=["forms", "odd forms", "calls", "spoilt"],
)
@pytest.mark.parametrize(
    "seconds", [pytest.param(10, id="10s"), pytest.param(1200, id="20min", marks=pytest.mark.long)]
)
def test_random_requests_get_no_500_and_json_errors(
    url: str, requests: st.SearchStrategy[bytes], seconds: float
) -> None:
    sent = 0
    until = time.monotonic() + seconds

    @settings(FUZZ, max_examples=100)
    @given(requests)
    def hold(request: bytes) -> None:
        nonlocal sent
        sent += 1
        check(url, request)

    while time.monotonic() < until:
        hold()
    print(f"{sent} requests in {seconds:.0f} s")
    assert get_json(f"{url}/livez") == {"status": "alive"}
