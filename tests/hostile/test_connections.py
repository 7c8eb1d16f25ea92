"""All connections taken, by one address or by many: who is served all the same.

The server is at 127.0.0.1; others come from 127.0.0.2 and onwards.
"""

import contextlib
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from i2ii_spool.client import AsyncClient
from i2ii_spool.server.connections import client_of
from tests.support.http import error_of
from tests.support.jobs import SubmitJob, claim_next, finish, result_of
from tests.support.raw_http import GOOD, Wire, get, head, length
from tests.support.seams import serve_with
from tests.support.service import Service

MOST = 16
"""So a client's share is 2."""
TOKEN = "a-token-of-an-operator"
BEARER = f"Authorization: Bearer {TOKEN}"
OTHER = "127.0.0.2"

Dial = Callable[..., Wire]


@pytest.fixture
def url(service: Service) -> str:
    return serve(service)


def serve(service: Service, **settings: str) -> str:
    """A server for which each waiting connection has waited long enough."""
    return serve_with(
        service,
        {"connections.SETTLED_SECONDS": 0.0},
        **{"max_connections": str(MOST), **settings},
    )


@pytest.fixture
def dial(service: Service) -> Iterator[Dial]:
    with contextlib.ExitStack() as stack:
        yield lambda source="127.0.0.1": stack.enter_context(Wire(service.url, source))


def idle(dial: Dial, sources: list[str], *headers: str, path: str = "/livez") -> list[Wire]:
    """Connections on which a request has been answered."""
    wires = []
    for source in sources:
        wires.append(dial(source))
        assert wires[-1].get(path, *headers).status == 200
    return wires


def polling(dial: Dial, id: str, sources: list[str]) -> list[Wire]:
    """Connections whose request is under way."""
    wires = idle(dial, sources)
    for wire in wires:
        wire.send(get(f"/status/{id}?wait=300"))
    return wires


def others(count: int) -> list[str]:
    return [f"127.0.0.{number}" for number in range(2, 2 + count)]


def is_open(wire: Wire) -> bool:
    """Whether the server answers on it."""
    return wire.send(get("/livez")) and wire.socket.recv(1) == b"H"


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("path", ["/livez", "/jobs"])
def test_one_address_with_idle_connections_keeps_nobody_out(dial: Dial, path: str) -> None:
    held = idle(dial, [OTHER] * MOST, path=path)
    newcomer = dial()
    assert newcomer.get("/livez").status == 200
    assert error_of(newcomer.get("/status/20260101-000000-000-aaaaaa")) == (404, "not_found")
    newcomer.send(head(length(GOOD)) + GOOD)
    assert newcomer.answer().status == 202
    assert held[0].is_closed()
    assert is_open(held[1])


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nX: "], ids=["nothing", "a part"])
def test_one_address_that_sends_no_request_keeps_nobody_out(dial: Dial, sent: bytes) -> None:
    for _ in range(3 * MOST):
        dial(OTHER).send(sent)
    assert dial().get("/livez").status == 200
    assert dial("127.0.0.3").get("/jobs").status == 200


def test_who_has_no_token_displaces_nobody_who_has_one(service: Service, dial: Dial) -> None:
    serve(service, api_token=TOKEN)
    bearers = idle(dial, ["127.0.0.1"] * (MOST - 4), BEARER, path="/jobs")
    for source in others(30):
        for _ in range(2):
            assert dial(source).get("/livez").status == 200
    assert error_of(dial(OTHER).get("/jobs")) == (401, "unauthorized")
    assert all(is_open(wire) for wire in bearers)


def test_who_bears_a_token_gets_in_among_those_who_do(service: Service, dial: Dial) -> None:
    serve(service, api_token=TOKEN)
    bearers = idle(dial, others(MOST), BEARER, path="/jobs")
    newcomer = dial()
    assert newcomer.get("/jobs", BEARER).status == 200
    assert bearers[0].is_closed()  # it has waited longest
    assert all(is_open(wire) for wire in [*bearers[1:], newcomer])


@pytest.mark.usefixtures("url")
def test_a_client_that_needs_all_connections_gives_one_to_another(
    service: Service, dial: Dial, submit_job: SubmitJob
) -> None:
    polls = polling(dial, submit_job(), [OTHER] * MOST)
    probe = dial()
    assert probe.get("/livez").status == 200
    assert probe.is_closed()  # it was one beyond the limit
    refused = dial(OTHER)
    assert error_of(refused.get("/jobs")) == (503, "too_many_connections")
    assert refused.is_closed()
    newcomer = dial()
    assert newcomer.get("/jobs").status == 200
    assert newcomer.get("/jobs").status == 200
    assert polls[0].is_closed()
    finish(claim_next(service.spool))
    assert {wire.answer().status for wire in polls[1:]} == {200}


@pytest.mark.usefixtures("url")
def test_nothing_under_way_is_closed_for_others_within_their_shares(
    service: Service, dial: Dial, submit_job: SubmitJob
) -> None:
    polls = polling(dial, submit_job(), others(MOST))
    assert error_of(dial().get("/jobs")) == (503, "too_many_connections")
    silent = [dial("127.0.0.99") for _ in range(40)]
    assert dial().get("/livez").status == 200
    assert silent[0].is_closed()
    finish(claim_next(service.spool))
    assert {wire.answer().status for wire in polls} == {200}


@pytest.mark.usefixtures("url")
def test_a_client_that_does_not_read_its_answers_keeps_nobody_out(
    service: Service, dial: Dial, submit_job: SubmitJob
) -> None:
    id, claim = submit_job(), claim_next(service.spool)
    claim.save("result.png", bytes(2**25))
    claim.commit(result_of(claim))
    held = idle(dial, [OTHER] * MOST)
    for wire in held:
        wire.send(get(f"/result/{id}"))
        assert wire.begins_with() == b"HTTP/1.1 200 "
    newcomer = dial()
    assert newcomer.get("/jobs").status == 200
    assert newcomer.get("/health").status == 503  # there is no worker
    assert held[0].is_closed()


def test_a_proxy_has_no_share(service: Service, dial: Dial, submit_job: SubmitJob) -> None:
    serve(service, trusted_proxies="127.0.0.2")
    polls = polling(dial, submit_job(), [OTHER] * MOST)
    assert error_of(dial().get("/jobs")) == (503, "too_many_connections")
    finish(claim_next(service.spool))
    assert {wire.answer().status for wire in polls} == {200}


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("203.0.113.7", 4711), "203.0.113.7"),
        (("::ffff:203.0.113.7", 4711, 0, 0), "203.0.113.7"),
        (("2001:db8:1:2:3::4", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (("10.1.2.3", 4711), None),
        (("::ffff:10.1.2.3", 4711, 0, 0), None),
        ("", None),
    ],
)
def test_a_client_is_an_address_or_a_network(peer: object, client: str | None) -> None:
    assert client_of(peer, [ip_network("10.0.0.0/8")]) == client


async def test_a_client_of_the_library_does_not_notice(
    url: str, dial: Dial, submit_job: SubmitJob
) -> None:
    id = submit_job()
    async with AsyncClient(url) as client:
        assert (await client.status(id)).status == "queued"
        closed_before = idle(dial, others(3 * MOST))[0]
        assert closed_before.is_closed()
        assert (await client.status(id)).status == "queued"


# --- what one connection may cost -----------------------------------------------------------------


@pytest.mark.usefixtures("url")
def test_a_head_that_does_not_end_is_cut_off(dial: Dial) -> None:
    wire = dial()
    wire.send(get("/livez", *(f"X-{n}: {'a' * 1000}" for n in range(40)))[:-2])
    assert error_of(wire.answer()) == (400, "bad_request")
    assert wire.is_closed()


def test_a_refused_body_may_be_longer_than_a_head(service: Service, dial: Dial) -> None:
    serve(service, api_token=TOKEN)
    wire = dial()
    wire.send(head("Content-Length: 200000") + bytes(100_000))
    assert error_of(wire.answer()) == (401, "unauthorized")
    wire.send(bytes(100_000))
    assert wire.get("/livez").status == 200


@pytest.mark.usefixtures("url")
def test_what_a_client_sends_ahead_is_limited(dial: Dial, submit_job: SubmitJob) -> None:
    [wire] = polling(dial, submit_job(), [OTHER])
    fields = [f"X-{n}: {'a' * 4000}" for n in range(100)]
    sent = 0
    while sent < 10 and wire.send(get("/livez", *fields)):
        sent += 1
    assert wire.is_closed()
