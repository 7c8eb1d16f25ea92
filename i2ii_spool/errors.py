"""Everything that i2ii raises on purpose.

    I2iiError
    ├── InvalidRequest          what was asked for cannot be: names the field, the limit and the cure
    │   ├── TooLarge            more bytes or pixels than the limit
    │   └── UnsupportedPicture  not a picture, or of a kind that is not read here
    ├── NotFound                no such job, or no such result
    │   └── Deleted             there was one
    ├── WrongState              the job is not in a state that allows this
    ├── Unauthorized            no token, or none that is valid
    ├── Forbidden               it may be valid, and is not allowed here
    ├── TooSlow                 a body that takes too long to come
    ├── TryLater                come back in `retry_after` seconds
    │   ├── QueueFull           as many jobs wait as may
    │   └── TooManyRequests     this client has had its share
    ├── DiskFull                the disk is under its floor
    ├── SpoolUnusable           the spool cannot work as it is; an operator must act
    ├── ClaimLost               the job is no longer this worker's: it was taken for dead
    ├── SettingsError           a setting is wrong; an operator must act
    └── EngineError             the engine could not make this edit
        ├── Cancelled           somebody asked for the job to stop
        └── EngineBroken        nor will it make the next one: the process must start afresh

`code` is the stable, machine-readable name that HTTP answers and `error.json` carry; the message is
for people and says what to do. Anything else that is raised is a bug, and is reported with its
traceback.
"""

import errno

DISK_FULL_CURE = "delete finished jobs (i2ii gc) or make the disk larger"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE_ERRNOS = (
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EMFILE,
    errno.ENFILE,
)
"""What a disk says that has failed, was taken away or is closed to us, or the kernel where there
are no descriptors."""


class I2iiError(Exception):
    """Base of all errors that i2ii raises on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code is not None:
            self.code = code

    def to_dict(self) -> dict[str, str]:
        """The one shape in which every error is shown: code, message and, where one is at fault,
        the field."""
        shown = {"code": self.code, "message": self.message}
        return shown if self.field is None else {**shown, "field": self.field}


class InvalidRequest(I2iiError):
    """What was asked for cannot be; asking differently cures it."""

    code = "invalid_request"


class TooLarge(InvalidRequest):
    """More bytes or pixels than the limit."""

    code = "too_large"


class UnsupportedPicture(InvalidRequest):
    """Not a picture, or of a kind that is not read here."""

    code = "unsupported_picture"


class NotFound(I2iiError):
    """No such job, or no such result."""

    code = "not_found"


class Deleted(NotFound):
    """There was such a job; it has been deleted."""

    code = "deleted"


class WrongState(I2iiError):
    """The job is not in a state that allows this."""

    code = "wrong_state"


class Unauthorized(I2iiError):
    """No token, or none that is valid."""

    code = "unauthorized"


class Forbidden(I2iiError):
    """What was asked for is not allowed from here."""

    code = "forbidden"


class TooSlow(I2iiError):
    """A body that takes too long to come."""

    code = "too_slow"


class TryLater(I2iiError):
    """Not now; `retry_after` is when it may be tried again, in seconds."""

    code = "try_later"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(TryLater):
    """As many jobs wait as are allowed to; a place should be free after `retry_after`."""

    code = "queue_full"


class TooManyRequests(TryLater):
    """This client has had its share for now."""

    code = "too_many_requests"


class DiskFull(I2iiError):
    """The spool's file system has less free space than its floor."""

    code = "disk_full"


class SpoolUnusable(I2iiError):
    """The spool cannot work as it is; an operator must act."""

    code = "spool_unusable"


class ClaimLost(I2iiError):
    """The job is no longer this worker's: it was taken for dead, and its result must be dropped."""

    code = "claim_lost"

    def __init__(self, id: str) -> None:
        super().__init__(f"job {id} is no longer this worker's: it was away for too long")


class SettingsError(I2iiError):
    """A setting is wrong; an operator must act."""

    code = "bad_setting"


class EngineError(I2iiError):
    """The engine could not make this edit."""

    code = "engine_error"


class Cancelled(EngineError):
    """Somebody asked for the job to stop."""

    code = "cancelled"


class EngineBroken(EngineError):
    """The engine can make no further edit in this process."""

    code = "engine_broken"


def from_os_error(error: OSError) -> I2iiError | None:
    """What an error of the operating system means here, or None if it is a bug of ours."""
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFull(f"the spool's disk is full ({error.strerror}): {DISK_FULL_CURE}")
    if error.errno in UNUSABLE_ERRNOS:
        return SpoolUnusable(
            f"the spool cannot be used ({error.strerror}): `i2ii doctor` says more"
        )
    return None
