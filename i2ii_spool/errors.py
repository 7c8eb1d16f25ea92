"""Every error that i2ii raises on purpose, and the register of their codes.

    I2iiError
    ├── InvalidRequest            a field, parameter or picture is wrong
    │   ├── TooLarge                  more bytes or pixels than the limit
    │   ├── UnsupportedPicture        not a picture, damaged, or of a format that is not read
    │   ├── UnsupportedMediaType      the body is not a multipart form
    │   ├── UnknownInstruction        the classic engine does not know the instruction
    │   └── MalformedHttp             the bytes are not an HTTP request
    ├── NotFound                  no such job, result, route or token
    │   ├── Deleted                   there was such a job; it has been deleted
    │   └── ModelNotFound             the OpenAI API is asked for a model that does not run
    ├── MethodNotAllowed          the route exists and does not take this method
    ├── ExpectationFailed         the client expects (`Expect`) what the server does not do
    ├── PreconditionFailed        the picture is not the one that `If-Match` names
    ├── RangeNotSatisfiable       the range starts behind the end of the picture
    ├── WrongState                the job is not in a state that allows this
    │   ├── NotReady                  it has not ended within the time that the client waits
    │   ├── JobFailed                 it ended without a picture; carries the code of its failure
    │   └── IdempotencyKeyReused      the key was used for another request
    ├── Unauthorized              no token, or none that is valid
    ├── Forbidden                 not allowed from here
    ├── MisdirectedRequest        the request names a host that this server does not serve
    ├── TooSlow                   the body arrives too slowly
    ├── TryLater                  try again after `retry_after` seconds
    │   ├── QueueFull                 as many jobs wait as may
    │   ├── TooManyRequests           this client has used up its share
    │   └── TooManyConnections        the server needs all its connections
    ├── DiskFull                  the disk is below its floor
    ├── SpoolUnusable             the spool cannot work as it is; an operator must act
    │   └── NewerSpool                a later version of i2ii has changed how it is laid out
    ├── SettingsError             a setting is wrong; an operator must act
    ├── EngineError               the engine could not make this edit
    │   ├── Cancelled                 a client or an operator stopped the job
    │   ├── Crashed                   the worker died in every attempt at the job
    │   ├── BadOutput                 the model returned no usable picture
    │   ├── JobTooSlow                the edit takes longer than it may
    │   └── EngineBroken              the next edit would fail too: the process must start afresh
    │       └── DriverError               the NVIDIA driver or the GPU does not answer
    ├── DownloadFailed            the weights could not be fetched
    ├── Unreadable                a record of the job is missing or is not what it should be
    ├── ClaimLost                 the job was taken from this worker (never leaves the worker)
    ├── WorkerNameTaken           a worker of another host has this worker's name
    ├── NoServer                  no i2ii server answers at the URL
    ├── NoWorker                  no worker is running
    └── BadResult                 the server sent a result that is not a picture

Each class names its `code` (stable, machine-readable: HTTP answers and `error.json` carry it), the
HTTP status that the server answers with, and the exit code of a command that ends with it.
`REGISTER` maps every code to its class: the server, the client and `docs/errors.md` read it. The
message is for people, and says what to do. Any other exception is a bug, and is reported with its
traceback.
"""

import errno
from collections.abc import Mapping
from typing import Any, ClassVar

EX_FAILED, EX_USAGE, EX_CONFIG = 1, 64, 78
"""Exit codes, as in sysexits(3). A unit lists EX_CONFIG in RestartPreventExitStatus."""

DISK_FULL_CURE = "delete finished jobs (i2ii gc) or make the disk larger"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE_ERRNOS = (
    *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOTCONN),
    *(errno.EMFILE, errno.ENFILE),
)
"""A disk that failed, was removed or is closed to this user; or no file descriptor is left."""

REGISTER: "dict[str, type[I2iiError]]" = {}


class I2iiError(Exception):
    """An internal error."""

    code: str = "internal_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = EX_FAILED

    def __init_subclass__(cls) -> None:
        REGISTER.setdefault(cls.code, cls)

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def to_dict(self) -> dict[str, str]:
        """The one shape of every error: `code`, `message` and, where one is at fault, `field`."""
        described = {"code": self.code, "message": self.message}
        return described if self.field is None else {**described, "field": self.field}


REGISTER[I2iiError.code] = I2iiError


class InvalidRequest(I2iiError):
    """A field, parameter or picture is wrong. The message names field, limit and cure."""

    code = "invalid_request"
    http_status = 400
    exit_code = EX_USAGE


class TooLarge(InvalidRequest):
    """The body or a picture has more bytes or pixels than the limit."""

    code = "too_large"
    http_status = 413


class UnsupportedPicture(InvalidRequest):
    """The file is not a picture, is damaged, or has a format that is not read."""

    code = "unsupported_picture"


class UnsupportedMediaType(InvalidRequest):
    """The body is not a multipart form."""

    code = "unsupported_media_type"
    http_status = 415


class UnknownInstruction(InvalidRequest):
    """The classic engine does not know the instruction. The message lists those that it knows."""

    code = "unknown_instruction"


class MalformedHttp(InvalidRequest):
    """The bytes are not an HTTP request, or its head is larger than the limit."""

    code = "bad_request"


class NotFound(I2iiError):
    """There is no such job, result, route or token."""

    code = "not_found"
    http_status = 404
    exit_code = EX_USAGE


class Deleted(NotFound):
    """There was such a job; it has been deleted."""

    code = "deleted"
    http_status = 410


class ModelNotFound(NotFound):
    """A client of the OpenAI API asks for a model that does not run."""

    code = "model_not_found"


class MethodNotAllowed(I2iiError):
    """The route exists and does not take this method. `Allow` lists those that it takes."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, message: str, *, field: str | None = None, allow: str = "") -> None:
        super().__init__(message, field=field)
        self.allow = allow
        """The methods, as in the header `Allow`; empty where a client does not know them."""


class ExpectationFailed(I2iiError):
    """The client expects (`Expect`) something that the server does not do."""

    code = "expectation_failed"
    http_status = 417


class PreconditionFailed(I2iiError):
    """The picture is not the one that `If-Match` or `If-Unmodified-Since` names."""

    code = "precondition_failed"
    http_status = 412


class RangeNotSatisfiable(I2iiError):
    """The range starts behind the end of the picture."""

    code = "range_not_satisfiable"
    http_status = 416

    def __init__(self, message: str, *, field: str | None = None, size: int | None = None) -> None:
        super().__init__(message, field=field)
        self.size = size
        """Bytes of the picture; None where a client does not know it."""


class WrongState(I2iiError):
    """The job is not in a state that allows this."""

    code = "wrong_state"
    http_status = 409
    exit_code = EX_USAGE


class NotReady(WrongState):
    """The job has not ended within the time that the client waits for its picture."""

    code = "not_ready"


class JobFailed(WrongState):
    """The job has ended without a picture. `code` is that of its failure, where it has one."""

    code = "job_failed"
    exit_code = EX_FAILED

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, field=field)
        if code is not None:
            self.code = code


class IdempotencyKeyReused(WrongState):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"


class Unauthorized(I2iiError):
    """The request has no token, or none that is valid."""

    code = "unauthorized"
    http_status = 401


class Forbidden(I2iiError):
    """The request is not allowed from this origin."""

    code = "forbidden"
    http_status = 403


class MisdirectedRequest(I2iiError):
    """The request names a host that this server does not serve."""

    code = "misdirected_request"
    http_status = 421


class TooSlow(I2iiError):
    """The body arrives too slowly."""

    code = "too_slow"
    http_status = 408


class TryLater(I2iiError):
    """The request may be sent again after `retry_after` seconds (`Retry-After`)."""

    code = "try_later"
    http_status = 429

    def __init__(self, message: str, *, field: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, field=field)
        self.retry_after = retry_after


class QueueFull(TryLater):
    """As many jobs wait as may. A place should be free after `retry_after` seconds."""

    code = "queue_full"


class TooManyRequests(TryLater):
    """This client has used up its uploads or its submits for now."""

    code = "too_many_requests"


class TooManyConnections(TryLater):
    """The server has as many connections as it may, and needs them all."""

    code = "too_many_connections"
    http_status = 503


class DiskFull(I2iiError):
    """The file system of the spool has less free space, or fewer free files, than its floor."""

    code = "disk_full"
    http_status = 507


class SpoolUnusable(I2iiError):
    """The spool cannot work as it is. An operator must act."""

    code = "spool_unusable"
    http_status = 503


class NewerSpool(SpoolUnusable):
    """The spool has a format that this version does not know. A restart does not cure it."""

    code = "newer_spool"
    exit_code = EX_CONFIG


class SettingsError(I2iiError):
    """A setting is wrong. An operator must act: a restart does not cure it."""

    code = "invalid_setting"
    exit_code = EX_CONFIG


class EngineError(I2iiError):
    """The engine could not make this edit."""

    code = "engine_error"
    suspects_worker: ClassVar[bool] = True
    """Whether several in a row suggest that the worker is at fault, and not the jobs."""


class Cancelled(EngineError):
    """A client or an operator cancelled the job."""

    code = "cancelled"
    suspects_worker = False


class Crashed(EngineError):
    """The worker died in every attempt at the job."""

    code = "crashed"


class BadOutput(EngineError):
    """The model returned no usable picture: NaN, or black."""

    code = "bad_output"


class JobTooSlow(EngineError):
    """The edit takes longer than `job_timeout_seconds`."""

    code = "job_too_slow"
    suspects_worker = False


class EngineBroken(EngineError):
    """The engine can make no further edit in this process. The worker ends and starts afresh."""

    code = "engine_broken"


class DriverError(EngineBroken):
    """The NVIDIA driver or the GPU does not answer."""

    code = "driver_error"


class DownloadFailed(I2iiError):
    """The weights could not be fetched."""

    code = "download_failed"


class Unreadable(I2iiError):
    """A record of the job is missing, or is not what it should be."""

    code = "unreadable"


class ClaimLost(I2iiError):
    """The job was taken from this worker, which was taken for dead. Its result is dropped."""

    code = "claim_lost"


class WorkerNameTaken(I2iiError):
    """A worker of another host has the same name. An operator must act."""

    code = "worker_name_taken"
    exit_code = EX_CONFIG


class NoServer(I2iiError):
    """No i2ii server answers at the URL."""

    code = "no_server"


class NoWorker(I2iiError):
    """No worker is running, so that no job would ever end."""

    code = "no_worker"


class BadResult(I2iiError):
    """The server sent a result that is not a picture."""

    code = "bad_result"


def from_os_error(error: OSError) -> I2iiError | None:
    """Return what an error of the operating system means for the spool; None if it is a bug."""
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFull(f"the disk of the spool is full ({error.strerror}): {DISK_FULL_CURE}")
    if error.errno in UNUSABLE_ERRNOS:
        return SpoolUnusable(f"the spool cannot be used ({error.strerror}): run `i2ii doctor`")
    return None


def from_answer(status: int, described: dict[str, Any], retry_after: int) -> I2iiError:
    """Return the error that an HTTP answer describes: by its code, else by its status.

    `described` is the answer's `error` object, `retry_after` its `Retry-After` in seconds.
    """
    code, message, field = (described.get(name) for name in ("code", "message", "field"))
    kind = REGISTER.get(str(code))
    if (
        kind is None or kind.http_status != status
    ):  # a job's failure, or the code of a later version
        kind = next((each for each in REGISTER.values() if each.http_status == status), I2iiError)
    if issubclass(kind, TryLater):
        return kind(str(message), field=field, retry_after=retry_after)
    error = kind(str(message), field=field)
    if code is not None:
        error.code = code
    return error


def validation_message(details: Mapping[str, Any]) -> str:
    """Return pydantic's message for one error (`ValidationError.errors()`), as i2ii words it."""
    message: str = details["msg"]
    return message.removeprefix("Value error, ").replace("Input should be", "must be")
