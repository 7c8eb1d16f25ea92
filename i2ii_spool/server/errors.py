"""Errors as answers: `{"error": {"code", "message", "field"?}}` with the status of the register."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from i2ii_spool.errors import (
    I2iiError,
    MalformedHttp,
    MethodNotAllowed,
    NotReady,
    RangeNotSatisfiable,
    TooSlow,
    TryLater,
    Unauthorized,
    from_os_error,
)

log = logging.getLogger(__name__)

SERVER_NAME = "i2ii"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(
    answer: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer in JSON."""
    # Chinese stays readable. Bytes of a client that are not UTF-8 are quoted back escaped.
    body = json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace")
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in the one shape. Log an error that is not in the register."""
    try:
        return await handler(request)
    except I2iiError as error:
        return error_response(error)
    except Exception as error:
        known = from_os_error(error) if isinstance(error, OSError) else None
        if known is None:
            log.exception("%s %s failed", request.method, request.path)
            return error_response(I2iiError("internal server error; see the server log"))
        log.error("%s %s failed: %s", request.method, request.path, error)
        return error_response(known)


def error_response(error: I2iiError) -> web.Response:
    """Return the answer for an error: its status, its headers and its one shape."""
    headers: dict[str, str] = {}
    match error:
        case TryLater():
            headers["Retry-After"] = str(error.retry_after)
        case NotReady():
            headers["Retry-After"] = "1"
        case MethodNotAllowed():
            headers["Allow"] = error.allow
        case Unauthorized():
            headers["WWW-Authenticate"] = 'Bearer realm="i2ii"'
        case TooSlow():
            headers["Connection"] = "close"
        case RangeNotSatisfiable():
            headers["Content-Range"] = f"bytes */{error.size}"
    return json_response({"error": error.to_dict()}, status=error.http_status, headers=headers)


def malformed_http(status: int, reason: str | None) -> web.Response:
    """Return the answer to bytes that are not an HTTP request. It closes the connection."""
    said = " ".join((reason or "").split()) or "it cannot be read"
    response = error_response(MalformedHttp(f"malformed HTTP request: {said[:300]}"))
    response.set_status(status)
    response.headers[hdrs.SERVER] = SERVER_NAME
    response.force_close()
    return response
