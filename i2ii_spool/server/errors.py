"""Every error leaves as `{"error": {"code", "message", "field"?}}` with the status that fits it."""

import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import hdrs, web

from i2ii_spool.errors import (
    Deleted,
    DiskFull,
    Forbidden,
    I2iiError,
    InvalidRequest,
    NotFound,
    SpoolUnusable,
    TooLarge,
    TooSlow,
    TryLater,
    Unauthorized,
    WrongState,
    from_os_error,
)

log = logging.getLogger(__name__)

SERVER_NAME = "i2ii"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The first class that an error is an instance of decides.
STATUSES: list[tuple[type[I2iiError], int]] = [
    (TooLarge, 413),
    (InvalidRequest, 400),
    (Deleted, 410),
    (NotFound, 404),
    (WrongState, 409),
    (Unauthorized, 401),
    (Forbidden, 403),
    (TooSlow, 408),
    (TryLater, 429),
    (DiskFull, 507),
    (SpoolUnusable, 503),
    (I2iiError, 500),
]


def _dumps(answer: object) -> str:
    # Chinese stays printable. What a client sent that is no UTF-8 is quoted back with its bytes
    # spelled out.
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace").decode()


json_response = partial(web.json_response, dumps=_dumps)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in the one shape; what is not raised on purpose is logged, and said to be
    our fault."""
    try:
        return await handler(request)
    except I2iiError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = error.reason.lower().replace(" ", "_").replace("-", "_")
        return _response(
            error.status,
            {"code": code, "message": _http_message(request, error)},
            _kept_headers(error),
        )
    except OSError as error:
        known = from_os_error(error)
        if known is None:
            return _internal_error(request)
        log.error("%s %s failed: %s", request.method, request.path, error)
        return error_response(known)
    except Exception:
        return _internal_error(request)


def error_response(error: I2iiError) -> web.Response:
    """The answer for an error that is raised on purpose."""
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    return _response(status, error.to_dict(), _headers(error))


def _headers(error: I2iiError) -> dict[str, str]:
    match error:
        case TryLater():
            return {"Retry-After": str(error.retry_after)}
        case Unauthorized():
            return {"WWW-Authenticate": 'Bearer realm="i2ii"'}
        case TooSlow():
            return {"Connection": "close"}
        case _:
            return {}


def _response(status: int, shown: dict[str, str], headers: dict[str, str]) -> web.Response:
    return json_response({"error": shown}, status=status, headers=headers)


def broken_request(status: int, message: str | None) -> web.Response:
    """The answer to what is no HTTP, or more of it than is read. It closes the connection."""
    said = " ".join((message or "").split()) or "it cannot be read"
    response = _response(
        status,
        {"code": "bad_request", "message": f"this is no proper HTTP request: {said[:300]}"},
        {},
    )
    response.headers[hdrs.SERVER] = SERVER_NAME
    response.force_close()
    return response


def _http_message(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"there is nothing at {request.path}; jobs are at /edit, /status/ID, /result/ID and /jobs"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not for {request.path}; it takes {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason


def _kept_headers(error: web.HTTPException) -> dict[str, str]:
    return {
        name: error.headers[name] for name in ("Allow", "Content-Range") if name in error.headers
    }


def _internal_error(request: web.Request) -> web.Response:
    log.exception("%s %s failed", request.method, request.path)
    return _response(
        500,
        {"code": "internal_error", "message": "this is our fault; the server's log says more"},
        {},
    )
