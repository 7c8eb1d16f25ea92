"""What can happen to a job: the one list that logs, and all else that tells of jobs, speak.

A log line about a job carries its event as fields:

    log.info("job %s claimed, attempt %d", id, attempt, extra=fields(JobEvent.CLAIMED, id))

so that `journalctl I2II_JOB=ID` finds every line of one job, and `I2II_ACTION=claimed` every claim.
"""

from enum import StrEnum


class JobEvent(StrEnum):
    """Something that happened to a job. The value is the `action` of a log line."""

    SUBMITTED = "submitted"
    """A client submitted it: it is in `incoming/`, durably."""
    RESUBMITTED = "resubmitted"
    """A client sent it again with its idempotency key: it stays where it is."""
    ADMITTED = "admitted"
    """A guest became a job: it is in `incoming/` under an id."""
    REFUSED = "refused"
    """A guest was refused: it is in `failed/` under an id."""
    CLAIMED = "claimed"
    """A worker has it: it is in `running/<worker>/`, and its attempt is counted."""
    PROGRESSED = "progressed"
    """The engine has finished a step."""
    RELEASED = "released"
    """The worker gave it back, unfinished: it is in `incoming/`, at its old place."""
    REQUEUED = "requeued"
    """Its worker died: it is in `incoming/`, at its old place."""
    CLAIM_LOST = "claim_lost"
    """It was taken from its worker, which was taken for dead; that worker's result is dropped."""
    COMPLETED = "completed"
    """Its result is committed: it is in `done/`."""
    FAILED = "failed"
    """It ended without a picture: it is in `failed/`."""
    CANCEL_REQUESTED = "cancel_requested"
    """It runs, and its worker has been asked to stop it."""
    CANCELLED = "cancelled"
    """It was cancelled: it is in `failed/`."""
    RETRIED = "retried"
    """It had failed, and starts again: it is in `incoming/`, at its old place."""
    DELETED = "deleted"
    """It had ended, and is deleted."""
    WEBHOOK_DELIVERED = "webhook_delivered"
    """The receiver of its webhook has taken a message."""
    WEBHOOK_RETRIED = "webhook_retried"
    """The receiver has not taken it; it is sent again later."""
    WEBHOOK_DROPPED = "webhook_dropped"
    """The message is not sent any more."""


def fields(
    event: JobEvent, job: str, worker: str | None = None, *, code: str | None = None
) -> dict[str, str]:
    """Return the fields of a log record about a job, for `extra=`; `code` is that of an error."""
    described = {"action": event.value, "job": job, "worker": worker, "code": code}
    return {name: value for name, value in described.items() if value is not None}
