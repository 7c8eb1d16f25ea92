"""Heads of requests at live servers: what is judged before a body is asked for, and the hosts that
a request line and its headers may name."""

from collections.abc import Iterator

import pytest

from tests.support.http import error_of
from tests.support.raw_http import GOOD, Wire, head, length
from tests.support.service import Service

pytestmark = pytest.mark.xdist_group("heads")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = "Expect: 100-continue"
TOKEN = "a-token-of-an-operator"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of a server for all, one with a token, and one whose queue is full."""
    services = {name: Service(tmp_path_factory.mktemp(name)) for name in ("open", "token", "full")}
    yield {
        "open": services["open"].serve(),
        "token": services["token"].serve(api_token=TOKEN),
        "full": filled(services["full"].serve(max_queue="1")),
    }
    for service in services.values():
        service.stop_all()
    for service in services.values():
        assert "Traceback" not in service.read_log()
        log = service.read_log().replace("WARNING refused 127.0.0.1", "")
        assert "WARNING" not in log


def filled(url: str) -> str:
    with Wire(url) as wire:
        wire.send(head(length(GOOD)) + GOOD)
        assert wire.answer().status == 202
    return url


@pytest.mark.parametrize("expect", [EXPECT, "expect: 100-Continue"])
def test_a_body_is_asked_for_once_its_head_is_judged(servers: dict[str, str], expect: str) -> None:
    with Wire(servers["open"]) as wire:
        wire.send(head(length(GOOD), expect))
        assert wire.socket.recv(len(CONTINUE)) == CONTINUE
        wire.send(GOOD)
        assert wire.answer().status == 202


REFUSED = {
    "length": ("open", head("Content-Length: 999999999", EXPECT), 413),
    "media type": ("open", head("Content-Length: 9", EXPECT).replace(b"multipart", b"x"), 415),
    "boundary": ("open", head("Content-Length: 9", EXPECT, boundary=""), 400),
    "encoding": ("open", head("Content-Length: 9", "Content-Encoding: br2", EXPECT), 415),
    "parameter": ("open", head("Content-Length: 9", EXPECT, path="/edit?seed=7"), 400),
    "route": ("open", head("Content-Length: 9", EXPECT, path="/nothing"), 404),
    "no route at all": ("open", head("Content-Length: 9", EXPECT, method="OPTIONS", path="*"), 404),
    "method": ("open", head("Content-Length: 9", EXPECT, method="PUT"), 405),
    "body of no form": ("open", head("Content-Length: 9", EXPECT, path="/jobs/x/retry"), 400),
    "host": ("open", head("Content-Length: 9", EXPECT).replace(b"localhost", b"a.example"), 421),
    "token": ("token", head("Content-Length: 9", EXPECT), 401),
    "queue": ("full", head("Content-Length: 9", EXPECT), 429),
    "other expectation": ("open", head("Content-Length: 9", "Expect: 200-ok"), 417),
    "two expectations": ("open", head("Content-Length: 9", "Expect: 100-continue, x"), 417),
    "two headers": ("open", head("Content-Length: 9", EXPECT, "Expect: x"), 417),
    "other, without token": ("token", head("Content-Length: 9", "Expect: 200-ok"), 401),
    "other, no route": ("open", head("Content-Length: 9", "Expect: 200-ok", path="/nothing"), 404),
    "other, at *": (
        "open",
        head("Content-Length: 9", "Expect: x", method="OPTIONS", path="*"),
        404,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_body_that_would_be_refused_is_not_asked_for(servers: dict[str, str], case: str) -> None:
    server, sent, status = REFUSED[case]
    with Wire(servers[server]) as wire:
        wire.send(sent)
        assert wire.begins_with() == f"HTTP/1.1 {status} ".encode()
        assert error_of(wire.answer())[0] == status


def test_an_older_client_is_not_told_to_continue(servers: dict[str, str]) -> None:
    with Wire(servers["open"]) as wire:
        wire.send(head(length(GOOD), EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0") + GOOD)
        assert wire.begins_with() == b"HTTP/1.0 202 "


@pytest.mark.parametrize(
    ("target", "hosts", "statuses"),
    [
        ("http://localhost:8000/jobs", ["localhost"], [200]),
        ("http://rebound.example/jobs", ["localhost"], [421]),
        ("http://localhost/jobs", ["rebound.example"], [421]),
        ("http://user@localhost/jobs", ["localhost"], [421]),
        ("/jobs", ["localhost", "rebound.example"], [400, 421]),
        ("/jobs", ["rebound.example", "localhost"], [400, 421]),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_host_that_a_head_names_counts(
    servers: dict[str, str], target: str, hosts: list[str], statuses: list[int], version: str
) -> None:
    lines = [f"GET {target} HTTP/{version}", *(f"Host: {host}" for host in hosts), "", ""]
    with Wire(servers["open"]) as wire:
        wire.send("\r\n".join(lines).encode())
        answer = wire.answer()
    assert answer.status in statuses, answer.body
    if answer.status != 200:
        error_of(answer)


def test_a_client_of_http_1_0_may_leave_out_the_host(servers: dict[str, str]) -> None:
    with Wire(servers["open"]) as wire:
        wire.send(b"GET /jobs HTTP/1.0\r\n\r\n")
        assert wire.answer().status == 200
