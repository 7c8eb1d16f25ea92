"""Webhooks without a process: fields, addresses, signatures, the schedule, the queues."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from i2ii_spool.errors import InvalidRequest, SettingsError
from i2ii_spool.host.addresses import Reach, reach_of
from i2ii_spool.jobs.request import EditRequest, Job, parse, parse_json
from i2ii_spool.settings import load
from i2ii_spool.spool.status import JobStatus
from i2ii_spool.spool.webhook import Delivery, WebhookPolicy
from i2ii_spool.webhooks import receivers as queues
from i2ii_spool.webhooks.messages import (
    DELAYS,
    JITTER,
    Answer,
    Message,
    body_of,
    delay_after,
    headers_of,
    retry_after_of,
)
from i2ii_spool.webhooks.receivers import Pending, Receiver, Receivers
from i2ii_spool.webhooks.sender import AddressRefused, CheckedResolver
from tests.support.receiver import new_secret

URL = "https://example.com/hook"
NOW = datetime.now(UTC)
ID = "1795790424338-20261127-144024-278-ejvkfw-completed"
JOB = "20261127-144024-278-ejvkfw"
MESSAGE = Message(ID, "job.completed", NOW, URL, JOB)


# --- the fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "events"),
    [
        ({}, "completed,failed,cancelled"),
        ({"webhook_events": " "}, "completed,failed,cancelled"),
        ({"webhook_events": "failed, started"}, "started,failed"),
        ({"webhook_events": "PROGRESS completed"}, "progress,completed"),
        ({"webhook_events": ["cancelled", "completed"]}, "completed,cancelled"),
    ],
)
def test_events_are_named_in_any_order(given: dict[str, Any], events: str) -> None:
    request = parse(EditRequest, {"prompt": "p", "webhook": f" {URL} ", **given})
    assert (request.webhook, request.webhook_events) == (URL, events)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"webhook": "example.com/hook"}, "webhook", "must be a URL of https"),
        ({"webhook": "ftp://example.com"}, "webhook", "must be a URL of https"),
        ({"webhook": "https://user:word@example.com/"}, "webhook", "user or a password"),
        ({"webhook": "https://example.com/#top"}, "webhook", "fragment"),
        ({"webhook": "https://example.com:0/"}, "webhook", "port of 1 to 65535"),
        ({"webhook": "https://example.com\\@inside/"}, "webhook", "user or a password"),
        ({"webhook": "https://example.com\\inside/"}, "webhook", "must be a URL like"),
        ({"webhook": "https://exämple.com/"}, "webhook", "must be a URL like"),
        ({"webhook": "https:///path"}, "webhook", "must be a URL like"),
        ({"webhook": f"https://example.com/{'x' * 2000}"}, "webhook", "at most 2000"),
        ({"webhook": True}, "webhook", "must not be true"),
        ({"webhook": URL, "webhook_events": "ended"}, "webhook_events", "'ended'; the events are"),
        ({"webhook": URL, "webhook_events": ","}, "webhook_events", "must name one event"),
        ({"webhook": URL, "webhook_events": [1]}, "webhook_events", "valid string"),
        ({"webhook_events": "failed"}, "webhook_events", "set webhook"),
    ],
)
def test_a_wrong_field_is_refused_with_the_cure(
    fields: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        parse(EditRequest, {"prompt": "p", **fields})
    assert refused.value.field == field


def test_an_earlier_version_reads_the_record_of_a_job_without_a_webhook() -> None:
    assert b"webhook" not in parse(Job, {"prompt": "p"}).to_json()
    job = parse(Job, {"prompt": "p", "webhook": URL, "webhook_events": "failed"})
    assert parse_json(Job, job.to_json()) == job


# --- the settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", "c2VjcmV0" * 8, "whsec_!?"])
def test_a_wrong_secret_is_refused_and_not_shown(secret: str) -> None:
    good = new_secret()
    with pytest.raises(SettingsError, match="number 2 must be whsec_") as refused:
        load({"webhook_secrets": f"{good} {secret}"}, files=())
    assert good not in str(refused.value)
    assert secret not in str(refused.value)


def test_secrets_are_read_and_masked() -> None:
    first, second = new_secret(), new_secret()
    settings = load({"webhook_secrets": f"{first}  {second}"}, files=())
    assert len(settings.webhook_keys) == 2
    assert first not in f"{settings!r}{settings.webhook_secrets}"
    assert settings.to_environment()["I2II_WEBHOOK_SECRETS"] == f"{first}  {second}"


# --- addresses ------------------------------------------------------------------------------------

PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1"),
    *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::ffff:127.0.0.1", "::127.0.0.1"),
]
FORBIDDEN = [
    *("169.254.169.254", "fe80::1", "fe80::1%1", "fd00:ec2::254", "100.100.100.200"),
    *("168.63.129.16", "192.0.0.192", "0.0.0.0", "0.1.2.3", "::", "255.255.255.255"),
    *("224.0.0.1", "ff02::1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "2001:db8::1", "fec0::1"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "2001::1"),
    *("64:ff9b:1::1", "100::1", "4000::1"),
]


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        *((each, Reach.PUBLIC) for each in PUBLIC),
        *((each, Reach.PRIVATE) for each in PRIVATE),
        *((each, Reach.FORBIDDEN) for each in FORBIDDEN),
    ],
)
def test_an_address_leads_where_it_leads(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


@pytest.mark.parametrize(
    ("policy", "url", "message"),
    [
        (WebhookPolicy(), URL, "I2II_WEBHOOK_SECRETS"),
        (WebhookPolicy(True), "http://example.com/", "must be of https"),
        (WebhookPolicy(True), "https://127.0.0.1/", "private address 127.0.0.1"),
        (WebhookPolicy(True), "https://[::ffff:10.0.0.1]/", "private address"),
        (WebhookPolicy(True), "https://LOCALHOST./", "private address"),
        (WebhookPolicy(True, True), "http://169.254.169.254/latest", "never told"),
        (WebhookPolicy(True, True), "http://93.184.216.34/", "by https alone"),
        (WebhookPolicy(True), URL, None),
        (WebhookPolicy(True), "https://93.184.216.34:8443/", None),
        (WebhookPolicy(True, True), "http://10.0.0.1:8080/hook", None),
    ],
)
def test_a_webhook_that_could_not_be_told_is_refused(
    policy: WebhookPolicy, url: str, message: str | None
) -> None:
    request = parse(EditRequest, {"prompt": "p", "webhook": url})
    if message is None:
        policy.check(request)
        return
    with pytest.raises(InvalidRequest, match=message):
        policy.check(request)


@contextmanager
def resolving(*answers: list[str]) -> Iterator[mock.Mock]:
    """Each question for a name gets the next answer."""

    def infos(addresses: list[str], port: int) -> list[Any]:
        kinds = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (each, port))
            for kind, each in zip(kinds, addresses, strict=True)
        ]

    with mock.patch.object(socket, "getaddrinfo") as ask:
        ask.side_effect = [infos(each, 443) for each in answers]
        yield ask


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "::1"]],
)
async def test_a_name_is_refused_for_any_of_its_addresses(addresses: list[str]) -> None:
    with ThreadPoolExecutor(1) as threads, resolving(addresses):
        resolver = CheckedResolver(WebhookPolicy(True), URL, threads)
        with pytest.raises(AddressRefused, match="leads to"):
            await resolver.resolve("example.com", 443)


async def test_a_name_that_changes_between_check_and_connection_gains_nothing() -> None:
    with ThreadPoolExecutor(1) as threads, resolving(["93.184.216.34"], ["127.0.0.1"]) as ask:
        resolver = CheckedResolver(WebhookPolicy(True), URL, threads)
        [found] = await resolver.resolve("example.com", 443)
        assert ask.call_count == 1
    # What the connection is made to is the address itself: nothing asks for the name again.
    assert found["host"] == "93.184.216.34"
    assert found["flags"] & socket.AI_NUMERICHOST


# --- messages -------------------------------------------------------------------------------------


def test_the_official_library_verifies_a_message() -> None:
    secrets = [new_secret(), new_secret()]
    keys = load({"webhook_secrets": " ".join(secrets)}, files=()).webhook_keys
    status = JobStatus(request_id=JOB, status="completed", prompt="日落 \U0001f305 \u2028")
    body = body_of(MESSAGE, status)
    headers = headers_of(ID, body, keys, datetime.now(UTC))  # the library takes five minutes
    for secret in secrets:  # both sign while the secret is changed
        told = Webhook(secret).verify(body, headers)
        assert told["type"] == "job.completed"
        assert told["data"]["prompt"] == status.prompt
    assert datetime.fromisoformat(told["timestamp"]) == NOW
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets[0]).verify(body.replace(b"completed", b"cancelled"), headers)


def test_a_message_is_sent_again_by_the_schedule_and_then_no_more() -> None:
    for attempts, least in enumerate(DELAYS, 1):
        delay = delay_after(attempts)
        assert delay is not None
        assert least <= delay <= least * (1 + JITTER)
    assert delay_after(len(DELAYS) + 1) is None
    assert len({delay_after(1) for _ in range(20)}) > 1
    assert DELAYS[:3] == (5, 300, 1800)
    assert DELAYS[-1] == 86400


def test_a_receiver_may_ask_for_more_time() -> None:
    assert delay_after(1, 120.0) == 120.0
    assert delay_after(1, 10.0**9) == 86400.0
    at = NOW.replace(microsecond=0) + timedelta(minutes=2)
    assert retry_after_of({"Retry-After": "7"}, NOW) == 7.0
    date = at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 119 <= retry_after_of({"Retry-After": date}, NOW) <= 121
    for none in ("", "soon", "-1", "9" * 40):
        assert retry_after_of({"Retry-After": none}, NOW) == 0.0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer("", 200), "delivered"),
        (Answer("", 299), "delivered"),
        (Answer("", 302), None),
        (Answer("", 404), None),
        (Answer("", 410), "dropped"),
        (Answer("", 503), None),
        (Answer("no connection"), None),
        (Answer("refused", is_refused=True), "dropped"),
    ],
)
def test_only_2xx_is_success(answer: Answer, outcome: str | None) -> None:
    assert answer.outcome == outcome


def test_data_of_a_message_do_not_tell_of_its_webhook() -> None:
    status = JobStatus(
        request_id=JOB,
        status="completed",
        owner="me:1",
        webhook={"url": URL},  # type: ignore[arg-type]
    )
    data = json.loads(body_of(MESSAGE, status))["data"]
    assert data == {"request_id": JOB, "status": "completed", "owner": "me"}


# --- the queues -----------------------------------------------------------------------------------


def pending(id: str, host: str) -> Pending:
    message = Message(id, "job.completed", NOW, f"https://{host}/hook", JOB)
    return Pending(message, Delivery(id=id, type=message.type, at=NOW))


class Attempts:
    """Attempts that the test lets end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.most: dict[str, int] = {}
        self.answers: dict[str, Answer] = {}
        self.may_end = asyncio.Event()
        self.changed = asyncio.Event()
        self.receivers: Receivers

    async def attempt(self, receiver: Receiver, each: Pending) -> None:
        self.begun.append(each.message.id)
        self.most[receiver.name] = max(self.most.get(receiver.name, 0), receiver.in_flight)
        self.changed.set()
        if receiver.name == "https://hangs":
            await self.may_end.wait()
        receiver.note(self.answers.get(receiver.name, Answer("", 200)))
        self.receivers.settle(each, None)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                self.changed.clear()
                await self.changed.wait()


async def test_a_receiver_that_hangs_delays_no_other() -> None:
    attempts = Attempts()
    async with asyncio.TaskGroup() as group:
        attempts.receivers = told = Receivers(attempts.attempt, group)
        for number in range(100):
            told.add(pending(f"hangs-{number}", "hangs"), 0)
        for number in range(1000):
            told.add(pending(f"quick-{number}", "quick"), 0)
        await attempts.until(queues.MAX_OF_RECEIVER + 1000)
        assert len(told) == 100
        attempts.may_end.set()
    assert len(told) == 0
    assert set(attempts.most.values()) == {queues.MAX_OF_RECEIVER}
    assert sorted(told.pop_idle()) == ["https://hangs", "https://quick"]


async def test_all_turns_are_given_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_ATTEMPTS_AT_ONCE", 10)
    attempts = Attempts()
    async with asyncio.TaskGroup() as group:
        attempts.receivers = told = Receivers(attempts.attempt, group)
        for number in range(300):
            told.add(pending(str(number), f"host{number % 50}"), 0)
        assert len(told) == 300
    assert sorted(attempts.begun, key=int) == [str(number) for number in range(300)]


async def test_a_silent_receiver_is_asked_one_at_a_time_after_pauses() -> None:
    receiver = Receiver("https://silent")
    with mock.patch.object(queues.time, "monotonic", return_value=100.0):
        for pause in (5, 10, 20, 40, 80, 160, 300, 300):
            receiver.note(Answer("no answer within 20 s"))
            assert receiver.paused_until == max(100.0 + pause, receiver.paused_until)
            assert receiver.paused_until == 100.0 + pause
            assert receiver.has_room
            receiver.in_flight = 1
            assert not receiver.has_room
            receiver.in_flight = 0
        receiver.note(Answer("", 500))
        receiver.in_flight = 1
        assert receiver.has_room


async def test_who_stops_begins_nothing_and_waits_for_what_is_under_way() -> None:
    attempts = Attempts()
    async with asyncio.TaskGroup() as group:
        attempts.receivers = told = Receivers(attempts.attempt, group)
        for number in range(20):
            told.add(pending(str(number), "hangs"), 0)
        await attempts.until(queues.MAX_OF_RECEIVER)
        await told.close(0.01)
    assert len(attempts.begun) == queues.MAX_OF_RECEIVER
    assert len(told) == 20
