"""Errors as answers, in one shape that serves our clients and those of the OpenAI API:
`{"error": {"code", "message", "type", "field"?, "param"?}}` with the status of the register."""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from i2ii_spool.errors import (
    DiskFull,
    EngineError,
    I2iiError,
    MalformedHttp,
    MethodNotAllowed,
    NotReady,
    RangeNotSatisfiable,
    SpoolUnusable,
    TooManyConnections,
    TooSlow,
    TryLater,
    Unauthorized,
    WrongState,
    from_os_error,
)

log = logging.getLogger(__name__)

SERVER_NAME = "i2ii"

REQUEST_ID = web.RequestKey("request_id", str)
ERROR = web.RequestKey("error", str)
"""The code of the error that a request was answered with."""

MAX_RETRY_AFTER = 60
"""Seconds. OpenAI's clients do not wait longer: one gives up, another tries again at once."""
MAX_REASON = 300
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The `type` of an error, by its status."""
LASTING = (WrongState, DiskFull, SpoolUnusable, EngineError)
"""Errors that a repeated request would meet again. OpenAI's clients repeat 409 and 5xx unasked."""

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


def request_id(request: web.BaseRequest) -> str:
    """Return the id of a request: its answer carries it, and the log of a bug."""
    if REQUEST_ID not in request:
        request[REQUEST_ID] = secrets.token_hex(8)
    id: str = request[REQUEST_ID]
    return id


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in the one shape. Log an error that is not in the register."""
    try:
        return await handler(request)
    except I2iiError as error:
        request[ERROR] = error.code
        return error_response(error)
    except Exception as error:
        known = from_os_error(error) if isinstance(error, OSError) else None
        if known is None:
            log.exception("%s %s failed (%s)", request.method, request.path, request_id(request))
            return error_response(I2iiError("internal server error; see the server log"))
        shown = (request.method, request.path, request_id(request), error)
        log.error("%s %s failed (%s): %s", *shown)
        return error_response(known)


def described(error: I2iiError) -> dict[str, str]:
    """Return an error in its one shape; `param` and `type` are the words of the OpenAI API."""
    shown = {**error.to_dict(), "type": TYPES.get(error.http_status, "invalid_request_error")}
    if error.http_status >= 500:
        shown["type"] = "server_error"
    return shown if error.field is None else {**shown, "param": error.field}


def error_response(error: I2iiError) -> web.Response:
    """Return the answer for an error: its status, its headers and its one shape."""
    headers: dict[str, str] = {}
    if isinstance(error, LASTING) and not isinstance(error, NotReady):
        headers["X-Should-Retry"] = "false"
    match error:
        case TryLater():
            headers["Retry-After"] = str(min(error.retry_after, MAX_RETRY_AFTER))
            if isinstance(error, TooManyConnections):
                headers["Connection"] = "close"
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
    answer = {"error": described(error)}
    response = json_response(answer, status=error.http_status, headers=headers)
    response.set_status(error.http_status, reason_of(error))
    return response


def reason_of(error: I2iiError) -> str:
    """Return the message as a reason phrase: some clients show nothing else of an answer."""
    text = " ".join(error.message.split())[:MAX_REASON]
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def malformed_http(status: int, reason: str | None) -> web.Response:
    """Return the answer to bytes that are not an HTTP request. It closes the connection."""
    said = " ".join((reason or "").split()) or "it cannot be read"
    response = error_response(MalformedHttp(f"malformed HTTP request: {said[:300]}"))
    response.set_status(status, response.reason)
    response.headers[hdrs.SERVER] = SERVER_NAME
    response.force_close()
    return response
