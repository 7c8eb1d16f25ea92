"""Webhooks end to end: a real deliverer, real workers, and a receiver that verifies."""

import json
import signal
import ssl
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from openai import OpenAI
from PIL import Image

from i2ii_spool.client import Client
from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions
from i2ii_spool.spool.retention import RetentionPolicy, prune
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import submit as submit_to_spool
from i2ii_spool.spool.webhook import WebhookStatus
from tests.support.app import Connect, HandWorker, check_error, form, get
from tests.support.pictures import encoded
from tests.support.receiver import HOOK, Receiver, new_secret
from tests.support.seams import QUICK, deliver_with
from tests.support.service import Service, cli, get_text, wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def told(service: Service, receiver: Receiver) -> Service:
    """A service whose settings allow the receiver of the test."""
    service.environment["I2II_WEBHOOK_SECRETS"] = receiver.secret
    service.environment["I2II_WEBHOOK_PRIVATE"] = "true"
    return service


@pytest.fixture
def worker(told: Service) -> Iterator[HandWorker]:
    worker = HandWorker(told.spool)
    yield worker
    worker.die()


def submit(service: Service, picture: Path, url: str, **fields: str) -> str:
    """Submit a job with a webhook straight into the spool; return its id."""
    request = EditRequest(prompt="sepia", webhook=url, **fields)
    return submit_to_spool(service.spool, [picture], request, max_pixels=10**8)


def webhook_of(service: Service, id: str) -> WebhookStatus:
    """What the status of a job tells of its webhook."""
    webhook = read_status(service.spool, id).webhook
    assert webhook is not None
    return webhook


def noted(service: Service, id: str) -> list[dict[str, Any]]:
    """The deliveries in the `webhook.json` of a job."""
    for state in ("done", "failed", "running/*"):
        for path in service.spool.root.glob(f"{state}/{id}/webhook.json"):
            deliveries: list[dict[str, Any]] = json.loads(path.read_text())["deliveries"]
            return deliveries
    return []


def outcome_of(service: Service, id: str) -> str | None:
    """The outcome of the last message of a job."""
    deliveries = noted(service, id)
    return deliveries[-1]["outcome"] if deliveries else None


# --- what is told ---------------------------------------------------------------------------------


def test_a_job_tells_its_end(told: Service, receiver: Receiver) -> None:
    url = told.serve()
    told.work()
    deliver_with(told)
    with Client(url) as client:
        request = EditRequest(prompt="sepia", webhook=receiver.url, name="beach")
        id = client.submit([encoded()], request)
    [message] = wait_until(lambda: receiver.of(id))
    assert message.id.endswith(f"-{id}-completed")
    assert (message.type, message.path) == ("job.completed", "/hook?job=1")
    status = client_status(url, id)
    assert {**message.data, "webhook": status["webhook"]} == status
    event: Any = OpenAI(api_key="none").webhooks.unwrap(
        message.body, message.headers, secret=receiver.secret
    )
    assert (event.type, event.data.request_id) == ("job.completed", id)
    wait_until(lambda: outcome_of(told, id) == "delivered")
    assert client_status(url, id)["webhook"] == {
        "url": receiver.url,
        "attempts": 1,
        "last_answer": "204 No Content",
        "outcome": "delivered",
    }
    assert "204 No Content" in cli(told, "show", id).stdout
    assert receiver.wrong == []
    assert "/hook" not in told.read_log()


def client_status(url: str, id: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(get_text(f"{url}/status/{id}"))
    return status


def test_all_that_is_asked_for_is_told(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    deliver_with(told)
    every = {"webhook_events": "started progress completed failed cancelled"}
    cancelled = submit(told, picture, receiver.url, **every)
    actions.cancel(told.spool, cancelled)
    failed = submit(told, picture, receiver.url, **every)
    claim = worker.claim()
    wait_until(lambda: receiver.of(failed, "job.progress"))
    [started] = wait_until(lambda: receiver.of(failed, "job.started"))
    assert started.data["status"] == "running"
    claim.fail(EngineError("the paint ran out"))
    wait_until(lambda: receiver.of(failed, "job.failed"))
    wait_until(lambda: receiver.of(cancelled))
    assert [each.type for each in receiver.of(cancelled)] == ["job.cancelled"]
    assert receiver.of(failed, "job.failed")[0].data["error"]["message"] == "the paint ran out"
    only = submit(told, picture, receiver.url, webhook_events="failed")
    worker.finish()
    last = submit(told, picture, receiver.url)
    worker.finish()
    wait_until(lambda: receiver.of(last))
    assert receiver.of(only) == []


def test_a_guest_may_have_a_webhook(told: Service, receiver: Receiver) -> None:
    told.work()
    deliver_with(told)
    guest = told.spool.incoming / "beach"
    guest.mkdir()
    Image.new("RGB", (32, 32)).save(guest / "photo.png")
    fields = {"prompt": "sepia", "webhook": receiver.url, "webhook_events": ["completed"]}
    (guest / "job.json").write_text(json.dumps(fields))
    [message] = wait_until(lambda: list(receiver.messages))
    assert message.type == "job.completed"
    assert message.job.endswith("_beach")


# --- attempts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [500, 302, 404])
def test_what_is_no_success_is_told_again_with_the_same_id(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path, answer: int
) -> None:
    receiver.answers = [answer, answer, 204]
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    id = submit(told, picture, receiver.url)
    worker.finish()
    deliver_with(told)
    wait_until(lambda: outcome_of(told, id) == "delivered")
    messages = receiver.of(id)
    assert [each.answer for each in messages] == [answer, answer, 204]
    assert len({each.id for each in messages}) == 1
    assert {each.path for each in messages} == {"/hook?job=1"}  # no redirect is followed
    assert webhook_of(told, id).attempts == 3


def test_who_is_gone_is_told_once(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.answers = [410]
    id = submit(told, picture, receiver.url)
    worker.finish()
    deliver_with(told)
    wait_until(lambda: outcome_of(told, id) == "dropped")
    assert len(receiver.of(id)) == 1
    assert webhook_of(told, id).last_answer == "410 Gone"


def test_attempts_come_to_an_end(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.answers = [500]
    id = submit(told, picture, receiver.url)
    worker.finish()
    deliver_with(told)
    wait_until(lambda: outcome_of(told, id) == "dropped")
    assert len(receiver.of(id)) == 10
    assert webhook_of(told, id).attempts == 10


def test_a_receiver_that_asks_for_time_gets_it(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.answers, receiver.headers = [503], {"Retry-After": "3600"}
    id = submit(told, picture, receiver.url)
    worker.finish()
    deliver_with(told)
    [first] = wait_until(lambda: noted(told, id))
    assert first["outcome"] is None
    assert "503" in first["last_answer"]
    again = webhook_of(told, id).next_attempt_at
    assert again is not None
    assert again > datetime.now(UTC) + timedelta(seconds=3000)
    other = submit(told, picture, receiver.url)
    receiver.headers = {}
    worker.finish()
    wait_until(lambda: receiver.of(other))
    assert len(receiver.of(id)) == 1


def test_a_receiver_that_hangs_delays_no_other(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    with Receiver(receiver.secret) as hangs:
        hangs.may_answer.clear()
        slow = [submit(told, picture, hangs.url) for _ in range(10)]
        quick = submit(told, picture, receiver.url)
        for _ in range(11):
            worker.finish()
        deliver_with(told, {**QUICK, "sender.DEADLINE_SECONDS": 0.5})
        wait_until(lambda: hangs.arrived)
        wait_until(lambda: receiver.of(quick))
        wait_until(lambda: any(noted(told, id) for id in slow))
        [tried] = next(noted(told, id) for id in slow if noted(told, id))
        assert tried["last_answer"].startswith("no answer within")
        hangs.may_answer.set()
        wait_until(lambda: all(outcome_of(told, id) == "delivered" for id in slow))


def test_where_nobody_listens_the_status_says_so(
    told: Service, worker: HandWorker, picture: Path
) -> None:
    with Receiver() as gone:
        url = gone.url
    id = submit(told, picture, url)
    worker.finish()
    deliver_with(told)
    wait_until(lambda: noted(told, id))
    assert "no connection" in noted(told, id)[0]["last_answer"]


def test_the_certificate_of_a_receiver_is_verified(
    told: Service, worker: HandWorker, picture: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with Receiver(told.environment["I2II_WEBHOOK_SECRETS"], context) as receiver:
        id = submit(told, picture, receiver.url)
        worker.finish()
        without = deliver_with(told)
        wait_until(lambda: noted(told, id))
        assert "certificate verify failed" in noted(told, id)[0]["last_answer"]
        without.terminate()
        without.wait()
        assert receiver.messages == []
        told.environment["SSL_CERT_FILE"] = str(tmp_path / "authority.pem")
        deliver_with(told)
        wait_until(lambda: outcome_of(told, id) == "delivered")
        assert receiver.of(id)


# --- where messages go ----------------------------------------------------------------------------


def test_private_addresses_are_refused_by_the_deliverer_too(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    literal = submit(told, picture, receiver.url)
    named = submit(told, picture, f"http://localhost:{receiver.port}/")
    tricky = submit(told, picture, f"https://127.1:{receiver.port}/")
    for _ in range(3):
        worker.finish()
    deliver_with(told, webhook_private="false")
    for id in (literal, named, tricky):
        wait_until(lambda id=id: outcome_of(told, id) == "dropped")
        assert str(webhook_of(told, id).last_answer).startswith("not sent: the webhook ")
    for id in (literal, named):
        assert "private address 127.0.0.1" in str(webhook_of(told, id).last_answer)
    assert receiver.arrived == 0


async def test_a_webhook_that_could_not_be_told_is_refused(connect: Connect) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(webhook=HOOK))
    message = await check_error(response, 400, "invalid_request", "webhook")
    assert "I2II_WEBHOOK_SECRETS" in message
    client = await connect(webhook_secrets=new_secret())
    for url in ("http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://localhost"):
        response = await client.post("/edit", data=form(webhook=url))
        await check_error(response, 400, "invalid_request", "webhook")
    response = await client.post("/edit", data=form(webhook=HOOK, webhook_events="done"))
    await check_error(response, 400, "invalid_request", "webhook_events")
    accepted = await (await client.post("/edit", data=form(webhook=HOOK))).json()
    status = await get(client, f"/status/{accepted['request_id']}")
    assert status["webhook"] == {"url": HOOK, "attempts": 0}


def test_submits_and_guests_are_refused_without_a_secret(service: Service, picture: Path) -> None:
    arguments = ("submit", str(picture), "-p", "sepia", "--webhook", HOOK)
    refused = cli(service, *arguments, check=False)
    assert refused.returncode == 64
    assert "I2II_WEBHOOK_SECRETS" in refused.stderr
    service.environment["I2II_GUEST_PATIENCE_SECONDS"] = "0"
    guest = service.spool.incoming / "beach"
    guest.mkdir()
    Image.new("RGB", (32, 32)).save(guest / "photo.png")
    (guest / "job.json").write_text(json.dumps({"prompt": "sepia", "webhook": HOOK}))
    service.work()
    [error] = wait_until(lambda: list(service.spool.failed.glob("*_beach/error.json")))
    assert json.loads(error.read_text())["field"] == "webhook"


# --- secrets --------------------------------------------------------------------------------------


def test_two_secrets_sign_while_they_are_changed(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    with Receiver() as other:
        first = submit(told, picture, receiver.url)
        second = submit(told, picture, other.url)
        worker.finish()
        worker.finish()
        deliver_with(told, webhook_secrets=f"{receiver.secret} {other.secret}")
        wait_until(lambda: receiver.of(first))
        wait_until(lambda: other.of(second))
        assert receiver.wrong == other.wrong == []


def test_without_a_secret_it_ends_at_once(service: Service) -> None:
    ended = cli(service, "webhooks")
    assert "I2II_WEBHOOK_SECRETS is not set" in ended.stderr


# --- the life of a job ----------------------------------------------------------------------------


def test_a_retried_job_is_told_of_again(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    deliver_with(told)
    id = submit(told, picture, receiver.url)
    worker.fail()
    wait_until(lambda: outcome_of(told, id) == "delivered")
    actions.retry(told.spool, id)
    assert webhook_of(told, id) == WebhookStatus(url=receiver.url)
    claim = worker.claim()
    assert not (claim.folder / "webhook.json").exists()
    worker.commit(claim)
    wait_until(lambda: receiver.of(id, "job.completed"))
    assert [each.type for each in receiver.of(id)] == ["job.failed", "job.completed"]
    wait_until(lambda: outcome_of(told, id) == "delivered")
    assert len(noted(told, id)) == 1


def test_a_job_that_fails_again_is_told_of_again(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    deliver_with(told)
    id = submit(told, picture, receiver.url)
    for times in (1, 2, 3):
        worker.fail()
        wait_until(lambda times=times: len(receiver.of(id, "job.failed")) == times)
        actions.retry(told.spool, id)
    actions.cancel(told.spool, id)
    wait_until(lambda: receiver.of(id, "job.cancelled"))
    assert len({each.id for each in receiver.of(id)}) == 4


def test_a_job_that_is_retried_while_it_is_told_is_not_harmed(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.may_answer.clear()
    deliver_with(told)
    id = submit(told, picture, receiver.url)
    worker.fail()
    wait_until(lambda: receiver.arrived)
    actions.retry(told.spool, id)
    claim = worker.claim()
    receiver.may_answer.set()
    wait_until(lambda: receiver.of(id, "job.failed"))
    worker.commit(claim)
    wait_until(lambda: outcome_of(told, id) == "delivered")
    folder = told.spool.done / id
    assert {path.name for path in folder.iterdir()} == {
        *("job.json", "input.jpg", "result.png", "result.json", "attempt-1.json", "webhook.json")
    }
    assert [each["type"] for each in noted(told, id)] == ["job.completed"]


def test_pruning_waits_for_the_delivery_or_its_end(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    id = submit(told, picture, receiver.url)
    other = submit(told, picture, receiver.url, webhook_events="failed")
    worker.finish()
    worker.finish()
    everything = RetentionPolicy(jobs=0)
    assert prune(told.spool, everything) == [other]
    deliver_with(told)
    wait_until(lambda: outcome_of(told, id) == "delivered")
    assert prune(told.spool, everything) == [id]
    late = submit(told, picture, receiver.url)
    receiver.answers = [500]
    worker.finish()
    folder = told.spool.done / late
    record = json.loads((folder / "result.json").read_text())
    record["completed_at"] = "2020-01-01T00:00:00Z"
    (folder / "result.json").write_text(json.dumps(record))
    assert prune(told.spool, everything) == [late]  # nobody waits for ever


def test_a_deleted_job_is_forgotten(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.answers = [500]
    id = submit(told, picture, receiver.url)
    worker.finish()
    deliver_with(told)
    wait_until(lambda: receiver.of(id))
    actions.delete_job(told.spool, id)
    report = told.spool.locks / "webhooks.json"
    wait_until(lambda: report.exists() and json.loads(report.read_text())["pending"] == 0)


def test_a_job_without_a_record_of_its_end_is_told_of(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    id = submit(told, picture, receiver.url)
    worker.finish()
    folder = told.spool.done / id
    (folder / "result.json").unlink()
    receiver.answers = [500, 500, 204]
    deliver_with(told, {**QUICK, "finder.UNWRITTEN_SECONDS": 0.0})
    wait_until(lambda: outcome_of(told, id) == "delivered")
    assert len({each.id for each in receiver.of(id)}) == 1


# --- the process ----------------------------------------------------------------------------------


def test_one_deliverer_for_each_spool(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    first = deliver_with(told)
    second = told.start(sys.executable, "-m", "i2ii_spool", "webhooks")
    wait_until(lambda: "another deliverer has this spool" in told.read_log())
    first.kill()
    first.wait()
    id = submit(told, picture, receiver.url)
    worker.finish()
    wait_until(lambda: receiver.of(id))
    second.terminate()
    assert second.wait(20) == 0


def test_a_stop_lets_attempts_end_and_removes_the_report(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    receiver.may_answer.clear()
    process = deliver_with(told)
    id = submit(told, picture, receiver.url)
    worker.finish()
    wait_until(lambda: receiver.arrived)
    process.terminate()
    receiver.may_answer.set()
    assert process.wait(20) == 0
    assert outcome_of(told, id) == "delivered"
    assert not (told.spool.locks / "webhooks.json").exists()


def test_metrics_show_what_the_deliverer_counts(
    told: Service, receiver: Receiver, worker: HandWorker, picture: Path
) -> None:
    url = told.serve()
    receiver.answers = [500, 204, 410]
    assert "i2ii_webhooks_pending" not in get_text(f"{url}/metrics")
    ids = [submit(told, picture, receiver.url) for _ in range(2)]
    worker.finish()
    deliver_with(told)
    wait_until(lambda: outcome_of(told, ids[0]) == "delivered")
    worker.finish()
    wait_until(lambda: outcome_of(told, ids[1]) == "dropped")
    wanted = {f'i2ii_webhooks_total{{outcome="{each}"}} 1.0' for each in ("delivered", "retried")}
    wanted |= {'i2ii_webhooks_total{outcome="dropped"} 1.0', "i2ii_webhooks_pending 0.0"}
    wait_until(lambda: wanted <= set(get_text(f"{url}/metrics").splitlines()))
    assert "i2ii_event_streams 0.0" in get_text(f"{url}/metrics")


def test_up_starts_the_deliverer_where_there_is_a_secret(
    told: Service, receiver: Receiver, picture: Path
) -> None:
    told.environment["CUDA_VISIBLE_DEVICES"] = ""
    up = told.start(sys.executable, "-m", "i2ii_spool", "up", "--port", "0")
    wait_until(lambda: "delivering the webhooks of" in told.read_log())
    id = submit(told, picture, receiver.url)
    wait_until(lambda: receiver.of(id))
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
