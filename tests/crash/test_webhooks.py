"""Webhooks under kill -9: each end of a job is told at least once, always with the same id."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import submit
from i2ii_spool.spool.webhook import awaits_delivery
from tests.support.app import HandWorker
from tests.support.chaos import SERVER, WORKER, ProcessGroup, is_dry
from tests.support.receiver import Receiver, note_attempt
from tests.support.seams import QUICK, deliver_with, deliverer
from tests.support.service import Service, wait_until

SECONDS = 12.0
PAUSE = (0.05, 0.6)


@pytest.fixture
def told(service: Service) -> Service:
    service.environment["I2II_WEBHOOK_PRIVATE"] = "true"
    return service


def submit_one(service: Service, picture: Path, url: str, **fields: str) -> str:
    request = EditRequest(prompt="sepia", webhook=url, num_inference_steps=10, **fields)
    return submit(service.spool, [picture], request, max_pixels=10**8)


def is_delivered(spool: Spool, id: str) -> bool:
    webhook = read_status(spool, id).webhook
    return webhook is not None and webhook.outcome is not None


def test_every_end_is_told_whatever_is_killed(told: Service, picture: Path) -> None:
    chance = random.Random(int(os.environ.get("KILL_LOOP_SEED", "20261127")))
    with Receiver() as receiver:
        receiver.answers = [chance.choice((204, 204, 500)) for _ in range(60)] + [204]
        told.environment["I2II_WEBHOOK_SECRETS"] = receiver.secret
        delays = {**QUICK, "messages.DELAYS": (0.05,) * 1000}
        commands = {
            "server": SERVER,
            "gpu0": (WORKER, "quick", "0"),
            "deliverer": deliverer(delays),
        }
        group = ProcessGroup(told, commands, chance)
        ids = []
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            ids += [submit_one(told, picture, receiver.url) for _ in range(chance.randrange(4))]
            time.sleep(chance.uniform(*PAUSE))
            group.kill_some()
        wait_until(lambda: is_dry(told.spool), seconds=60)
        wait_until(lambda: all(is_delivered(told.spool, id) for id in ids), seconds=60)
        group.check_alive()
        print(f"{len(ids)} jobs, {group.kills}, {len(receiver.messages)} messages")
        assert receiver.wrong == []
        assert min(group.kills.values()) > 0, "one process was never killed"
        for id in ids:
            messages = receiver.of(id)
            assert len({each.id for each in messages}) == 1, messages
            assert 204 in [each.answer for each in messages]
    assert not list(told.spool.root.glob("*/*/.*.tmp")), "half-written files are left"
    assert not list(told.spool.locks.glob(".*.tmp"))


def test_a_deliverer_killed_before_it_noted_the_answer_tells_it_again(
    told: Service, picture: Path
) -> None:
    worker = HandWorker(told.spool)
    with Receiver() as receiver:
        told.environment["I2II_WEBHOOK_SECRETS"] = receiver.secret
        id = submit_one(told, picture, receiver.url)
        worker.finish()
        receiver.may_answer.clear()
        process = deliver_with(told)
        wait_until(lambda: receiver.arrived == 1)
        process.kill()
        process.wait()
        receiver.may_answer.set()
        wait_until(lambda: len(receiver.of(id)) == 1)
        deliver_with(told)
        wait_until(lambda: is_delivered(told.spool, id))
        assert receiver.arrived == 2
        assert len({each.id for each in receiver.of(id)}) == 1
    worker.die()


def test_attempts_are_counted_over_a_death(told: Service, picture: Path) -> None:
    worker = HandWorker(told.spool)
    with Receiver() as receiver:
        told.environment["I2II_WEBHOOK_SECRETS"] = receiver.secret
        receiver.answers = [500]
        id = submit_one(told, picture, receiver.url)
        worker.finish()
        slow = {**QUICK, "messages.DELAYS": (0.05, 0.05, 3600.0)}
        process = deliver_with(told, slow)
        wait_until(lambda: read_status(told.spool, id).webhook.attempts == 3)  # type: ignore[union-attr]
        process.kill()
        process.wait()
        deliver_with(told, slow)
        other = submit_one(told, picture, receiver.url)
        worker.finish()
        wait_until(lambda: receiver.of(other))
        assert len(receiver.of(id)) == 3  # the next one is in an hour
    worker.die()


def test_a_dead_writer_leaves_nothing_that_stays(told: Service, picture: Path) -> None:
    worker = HandWorker(told.spool)
    id = submit_one(told, picture, "https://example.com/")
    worker.finish()
    folder = told.spool.done / id
    (folder / ".webhook.json.0123abcd.tmp").write_text('{"deliv')
    (folder / ".photo.jpg.0123abcd.tmp").write_text("a user's")
    note_attempt(told.spool, id, last_answer="503")
    assert {path.name for path in folder.glob(".*")} == {".photo.jpg.0123abcd.tmp"}
    assert awaits_delivery(folder)
    (folder / "webhook.json").write_text('{"deliv')  # power was lost
    assert awaits_delivery(folder)
    note_attempt(told.spool, id, outcome="delivered")
    assert not awaits_delivery(folder)
    assert len(json.loads((folder / "webhook.json").read_text())["deliveries"]) == 1
    worker.die()
