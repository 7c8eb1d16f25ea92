"""The deliverer as a process: one for each spool, by a lock.

    run
      startup      acquire the lock; READY=1
      main loop    look for messages; attempts run beside it
      shutdown     STOPPING=1; the attempts that are under way have some seconds to end

It holds nothing that is not in the folders of the jobs. What it has sent and could not note before
it died is sent again, with the same `webhook-id`. An I/O error of the spool ends the process;
systemd starts it again.
"""

import asyncio
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from i2ii_spool.events import JobEvent, fields
from i2ii_spool.host.systemd import sd_notify, watchdog_interval
from i2ii_spool.jobs.webhooks import receiver_of
from i2ii_spool.settings import Settings
from i2ii_spool.spool.durable_io import write_hint
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerLock
from i2ii_spool.spool.metrics import WebhookMetrics
from i2ii_spool.spool.watch import Watcher
from i2ii_spool.spool.webhook import (
    DELIVERER,
    GIVE_UP_SECONDS,
    Delivery,
    WebhookPolicy,
    report_of,
    type_of,
    write_delivery,
)
from i2ii_spool.webhooks.finder import Finder, status_for
from i2ii_spool.webhooks.messages import Answer, Message, body_of, delay_after
from i2ii_spool.webhooks.receivers import Pending, Receiver, Receivers
from i2ii_spool.webhooks.sender import Sender

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
PAUSE_SECONDS = 0.05
"""Between two looks, however many jobs end."""
REPORT_SECONDS = 10.0
STOP_SECONDS = 5.0
TEMP_REPORT = re.compile(r"\.webhooks\.json\.[0-9a-f]{8}\.tmp")

Value = TypeVar("Value")


class Deliverer:
    """The daemon of a spool."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool)
        self._sender = Sender(WebhookPolicy.of(settings), settings.webhook_keys)
        # One thread, so that of two messages of a job neither overwrites what the other notes.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._arrived: set[str] = set()
        self._unwritten: dict[str, tuple[Message, Delivery]] = {}
        """What could not be noted, since the disk was full: it is not sent again for that."""
        self._counts = {"delivered": 0, "retried": 0, "dropped": 0}
        self._report_at = 0.0
        self._is_stopping = False

    def run(self) -> None:
        """Deliver until a signal comes. Raises what the disk of the spool says."""
        if not self._settings.webhook_keys:
            sd_notify(READY=1, STATUS="no secret is set: no job can have a webhook")
            log.info("I2II_WEBHOOK_SECRETS is not set, so that no job can have a webhook: ending")
            return
        self._spool.create()
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._wake = asyncio.Event()
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        watchdog = asyncio.create_task(_feed_watchdog())
        try:
            lock = await self._acquire_lock()
            if lock is None:
                return
            with lock, Watcher(self._watched(), self._hear):
                async with self._sender:
                    await self._deliver()
        except BaseExceptionGroup as group:  # of the attempts: each alone would end the process
            raise group.exceptions[0] from None
        finally:
            watchdog.cancel()
            self._disk.shutdown()

    def _stop(self) -> None:
        self._is_stopping = True
        self._wake.set()

    def _watched(self) -> list[Path]:
        return [self._spool.incoming, self._spool.done, self._spool.failed]

    def _hear(self, name: str) -> None:
        """Hear of a name in a folder, in the thread of the watcher."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._note, name)

    def _note(self, name: str) -> None:
        self._arrived.add(name)
        self._wake.set()

    async def _acquire_lock(self) -> WorkerLock | None:
        """Return the lock of the spool; None if it was stopped during the wait."""
        is_told = False
        while not self._is_stopping:
            lock = WorkerLock.take(self._spool, DELIVERER)
            if lock is not None:
                lock.sign()
                sd_notify(READY=1, STATUS="delivering")
                log.info("delivering the webhooks of %s", self._spool.root)
                return lock
            if not is_told:
                is_told = True
                sd_notify(READY=1, STATUS="another deliverer has this spool; waiting for its end")
                log.info("another deliverer has this spool; waiting for it to end")
            await self._sleep(LOOK_SECONDS)
        return None

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    # --- main loop --------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        finder = Finder(self._spool)
        for name in os.listdir(self._spool.locks):
            if TEMP_REPORT.fullmatch(name):
                (self._spool.locks / name).unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:
            self._receivers = Receivers(self._attempt, group)
            while not self._is_stopping:
                arrived, self._arrived = self._arrived, set()
                self._receivers.settled.clear()
                for message, delivery in await asyncio.to_thread(finder.look, arrived):
                    self._add(message, delivery)
                await self._write_unwritten()
                await self._report()
                await asyncio.sleep(PAUSE_SECONDS)
                if not self._arrived:
                    await self._sleep(LOOK_SECONDS)
            sd_notify(STOPPING=1)
            await self._receivers.close(STOP_SECONDS)
            log.info("stopped; %d messages stay pending", len(self._receivers))
        await asyncio.to_thread(report_of(self._spool).unlink, missing_ok=True)

    def _add(self, message: Message, delivery: Delivery) -> None:
        if message.id in self._receivers or message.id in self._unwritten:
            return
        if message.id in self._receivers.settled:  # while the look read what was noted before
            return
        delay = 0.0
        if delivery.next_attempt_at is not None:
            delay = max(0.0, (delivery.next_attempt_at - datetime.now(UTC)).total_seconds())
        self._receivers.add(Pending(message, delivery), delay)

    # --- an attempt -------------------------------------------------------------------------------

    async def _attempt(self, receiver: Receiver, pending: Pending) -> None:
        message = pending.message
        body = await self._on_disk(partial(self._body, message))
        delay = None
        if body is not None:
            answer = await self._sender.send(receiver.name, message, body)
            receiver.note(answer)
            pending.delivery = delivery = _after(pending.delivery, message, answer)
            self._tell(message, delivery)
            if not message.is_fleeting:
                await self._write(message, delivery)
            if delivery.outcome is None and delivery.next_attempt_at is not None:
                delay = (delivery.next_attempt_at - datetime.now(UTC)).total_seconds()
        self._receivers.settle(pending, delay)

    def _body(self, message: Message) -> bytes | None:
        """Return the body of a message; None if there is nothing to tell any more."""
        status = status_for(self._spool, message)
        return None if status is None else body_of(message, status)

    async def _on_disk(self, act: Callable[[], Value]) -> Value:
        return await self._loop.run_in_executor(self._disk, act)

    def _tell(self, message: Message, delivery: Delivery) -> None:
        to = receiver_of(message.url)
        told = (message.job, message.type, to, delivery.last_answer)
        match delivery.outcome:
            case "delivered":
                self._counts["delivered"] += 1
                event = fields(JobEvent.WEBHOOK_DELIVERED, message.job)
                log.info("job %s: %s told to %s: %s", *told, extra=event)
            case "dropped":
                self._counts["dropped"] += 1
                event = fields(JobEvent.WEBHOOK_DROPPED, message.job)
                log.warning("job %s: %s is not told to %s: %s", *told, extra=event)
            case _:
                self._counts["retried"] += 1
                event = fields(JobEvent.WEBHOOK_RETRIED, message.job)
                log.info("job %s: %s not told to %s yet: %s", *told, extra=event)

    # --- the disk ---------------------------------------------------------------------------------

    async def _write(self, message: Message, delivery: Delivery) -> None:
        is_end = message.type != type_of("started")
        write = partial(write_delivery, self._spool, message.job, delivery, is_end=is_end)
        try:
            await self._on_disk(write)
        except OSError as error:
            if message.id not in self._unwritten:
                log.warning(
                    "job %s: its webhook.json cannot be written: %s",
                    *(message.job, error),
                    extra=fields(JobEvent.WEBHOOK_RETRIED, message.job),
                )
            self._unwritten[message.id] = message, delivery
        else:
            self._unwritten.pop(message.id, None)

    async def _write_unwritten(self) -> None:
        for message, delivery in list(self._unwritten.values())[:10]:
            await self._write(message, delivery)

    async def _report(self) -> None:
        """Write the status file. It is a hint: the deliverer goes on if the disk is full."""
        if time.monotonic() < self._report_at:
            return
        self._report_at = time.monotonic() + REPORT_SECONDS
        for name in self._receivers.pop_idle():
            await self._sender.forget(name)
        metrics = WebhookMetrics(pid=os.getpid(), pending=len(self._receivers), **self._counts)
        text = f"{metrics.model_dump_json(indent=2)}\n".encode()
        try:
            await self._on_disk(partial(write_hint, report_of(self._spool), text))
        except OSError as error:
            log.warning("the status of the webhooks cannot be written: %s", error)


def _after(delivery: Delivery, message: Message, answer: Answer) -> Delivery:
    """Return how far a message is after an attempt."""
    attempts, outcome, text = delivery.attempts + 1, answer.outcome, answer.text
    delay, now = None, datetime.now(UTC)
    if outcome is None:
        delay = None if message.is_fleeting else delay_after(attempts, answer.retry_after)
        if delay is None or (now - message.at).total_seconds() + delay > GIVE_UP_SECONDS:
            delay, outcome = None, "dropped"
    next_attempt_at = None if delay is None else now + timedelta(seconds=delay)
    return delivery.model_copy(
        update={
            "attempts": attempts,
            "last_answer": text,
            "outcome": outcome,
            "next_attempt_at": next_attempt_at,
        }
    )


async def _feed_watchdog() -> None:
    """Tell systemd that the event loop runs, as often as its unit wants."""
    interval = watchdog_interval()
    while interval is not None:
        sd_notify(WATCHDOG=1)
        await asyncio.sleep(interval)
