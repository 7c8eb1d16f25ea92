"""Webhooks in a spool: which are accepted, and `webhook.json`, how far the messages of a job are.

The deliverer alone writes the file. A message is known by when the thing that it tells of happened:
by the records of the job itself. So a file that is lost, or of an earlier run of a retried job,
costs a message sent twice, and never one that is not sent.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from i2ii_spool.errors import InvalidRequest, NotFound
from i2ii_spool.host.addresses import Reach, reach_of
from i2ii_spool.jobs.folder import JobFolder, read_record
from i2ii_spool.jobs.records import Failure, Record, Result, read_or_none, without_null
from i2ii_spool.jobs.request import EditRequest, Job
from i2ii_spool.jobs.webhooks import host_of, is_encrypted
from i2ii_spool.settings import Settings
from i2ii_spool.spool.durable_io import TEMP_FILE, unlink_if_exists, write_hint
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.metrics import WebhookMetrics

GIVE_UP_SECONDS = 4 * 86400.0
"""For so long after its end a message of a job is tried, and the job is kept for it."""
LOCAL_NAMES = ("localhost", "localhost.localdomain")
WRITES = 10
"""By itself a job moves at most twice meanwhile."""
MAX_KEPT = 9
"""Earlier deliveries that stay in the file: a job may be started again and again."""
MARK = b'"webhook"'
"""No `job.json` without it has a webhook."""

Outcome = Literal["delivered", "dropped"]


@dataclass(frozen=True)
class WebhookPolicy:
    """Which webhooks are accepted."""

    has_secrets: bool = False
    allows_private: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings allow."""
        return cls(bool(settings.webhook_keys), settings.webhook_private)

    def check(self, request: EditRequest) -> None:
        """Raise `InvalidRequest` if the webhook of a request, if any, could not be told.

        What a name resolves to is judged when a message is sent.
        """
        if not request.webhook:
            return
        if not self.has_secrets:
            raise InvalidRequest(
                "webhook is not served here, since there is no secret to sign messages with: the "
                "operator sets I2II_WEBHOOK_SECRETS (docs/webhooks.md); or leave webhook out",
                field="webhook",
            )
        if not self.allows_private and not is_encrypted(request.webhook):
            raise InvalidRequest(
                "webhook must be of https; the operator may allow http at private addresses by "
                "I2II_WEBHOOK_PRIVATE",
                field="webhook",
            )
        host = host_of(request.webhook)
        reach = Reach.PRIVATE if host.lower().rstrip(".") in LOCAL_NAMES else None
        with suppress(ValueError):
            reach = reach_of(ip_address(host))
        if reach is not None and (problem := self.problem(reach, host, request.webhook)):
            raise InvalidRequest(f"webhook {problem}", field="webhook")

    def problem(self, reach: Reach, address: str, url: str) -> str | None:
        """Return why no message may go from a URL to an address; None if it may."""
        if reach is Reach.FORBIDDEN:
            return f"leads to {address}, which is never told anything; name a host of the Internet"
        if reach is Reach.PRIVATE and not self.allows_private:
            return (
                f"leads to the private address {address}; name a host of the Internet, or have the "
                "operator set I2II_WEBHOOK_PRIVATE"
            )
        if reach is Reach.PUBLIC and not is_encrypted(url):
            return f"leads to the public address {address}, which is told by https alone"
        return None


NO_WEBHOOKS = WebhookPolicy()


# --- the deliverer -------------------------------------------------------------------------------


DELIVERER = "webhooks"
"""The name of its lock."""


def report_of(spool: Spool) -> Path:
    """The file that shows the counters of the deliverer; none is running where it is missing."""
    return spool.locks / f"{DELIVERER}.json"


def read_report(spool: Spool) -> tuple[WebhookMetrics, float] | None:
    """Return the counters of the deliverer, and when it wrote them, in seconds since 1970."""
    path = report_of(spool)
    metrics = read_or_none(WebhookMetrics, path)
    try:
        return None if metrics is None else (metrics, path.stat().st_mtime)
    except FileNotFoundError:
        return None


# --- webhook.json ---------------------------------------------------------------------------------


class Delivery(BaseModel):
    """How far a message is."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Its `webhook-id`."""
    type: str
    at: AwareDatetime
    """When it happened."""
    attempts: int = 0
    next_attempt_at: AwareDatetime | None = None
    last_answer: str | None = None
    """What the receiver answered last, or why it could not be asked."""
    outcome: Outcome | None = None
    """None while it is tried."""


class Deliveries(Record):
    """`webhook.json`: a hint, replaced after each attempt."""

    deliveries: tuple[Delivery, ...]

    def of(self, id: str) -> Delivery | None:
        """The one with this id."""
        return next((each for each in self.deliveries if each.id == id), None)

    def of_end(self, status: str, at: datetime | None) -> Delivery | None:
        """That of an end, if it was tried."""
        for each in self.deliveries:
            if each.type == type_of(status) and (at is None or each.at == at):
                return each
        return None


class WebhookStatus(BaseModel):
    """How far the message of the job's end is."""

    model_config = ConfigDict(frozen=True, json_schema_extra=without_null)

    url: str
    """Where messages go."""
    attempts: int = 0
    """How often the message of the end was sent."""
    last_answer: str | None = None
    """What the receiver answered last, or why it could not be asked."""
    next_attempt_at: datetime | None = None
    """When it is sent again."""
    outcome: Outcome | None = None
    """`delivered`, or `dropped` once it is not tried any more."""


def type_of(event: str) -> str:
    """The type of the message of an event."""
    return f"job.{event}"


def read_deliveries(folder: Path) -> Deliveries:
    """Return what was delivered of a job. A file that cannot be read has nothing."""
    return read_or_none(Deliveries, JobFolder(folder).webhook) or Deliveries(deliveries=())


def write_delivery(spool: Spool, job: str, delivery: Delivery, *, is_end: bool) -> None:
    """Put a delivery into the `webhook.json` of a job, wherever the job is by now.

    A message of the end has no place in a job that was retried since. The caller is the only one
    that writes the file.
    """
    for _ in range(WRITES):
        try:
            location = find(spool, job)
            if location.state is State.INCOMING or (is_end and location.state is State.RUNNING):
                return
            _write(location.folder, delivery)
        except FileNotFoundError:  # it moves on
            continue
        except NotFound:
            return
        return


def _write(folder: Path, delivery: Delivery) -> None:
    path = JobFolder(folder).webhook
    for name in os.listdir(folder):  # of a deliverer that died here, or while the job moved
        match = TEMP_FILE.fullmatch(name)
        if match is not None and match[1] == path.name:
            unlink_if_exists(folder / name)
    others = [each for each in read_deliveries(folder).deliveries if each.id != delivery.id]
    kept = (*others[-MAX_KEPT:], delivery)
    write_hint(path, Deliveries(deliveries=kept).to_json())


def webhook_status(
    folder: Path, record: Job, end: str | None = None, at: datetime | None = None
) -> WebhookStatus | None:
    """Return what there is to tell of the webhook of a job that has this `end`, if any."""
    if not record.webhook:
        return None
    delivery = None if end is None else read_deliveries(folder).of_end(end, at)
    if delivery is None:
        return WebhookStatus(url=record.webhook)
    told = delivery.model_dump(include={"attempts", "last_answer", "next_attempt_at", "outcome"})
    return WebhookStatus(url=record.webhook, **told)


def wanted(folder: Path) -> Sequence[str]:
    """Return the events that are to be told of a job; none where it has no webhook."""
    try:
        text = read_record(JobFolder(folder).job)
    except (FileNotFoundError, PermissionError, InvalidRequest):
        return ()
    if MARK not in text:  # most have none: to parse costs more than to read
        return ()
    record = read_or_none(Job, JobFolder(folder).job)
    return record.webhook_events.split(",") if record is not None and record.webhook else ()


def awaits_delivery(folder: Path) -> bool:
    """Whether a message of the end of a job is still to be told, so that the job must stay.

    Without a deliverer that would be for ever: it is for `GIVE_UP_SECONDS`.
    """
    events = wanted(folder)
    if not events:
        return False
    job = JobFolder(folder)
    result = read_or_none(Result, job.result)
    failure = None if result is not None else read_or_none(Failure, job.error)
    if result is not None:
        end, at = "completed", result.completed_at
    elif failure is not None:
        end, at = "cancelled" if failure.code == "cancelled" else "failed", failure.failed_at
    else:
        return False
    if end not in events or time.time() - at.timestamp() > GIVE_UP_SECONDS:
        return False
    delivery = read_deliveries(folder).of_end(end, at)
    return delivery is None or delivery.outcome is None
