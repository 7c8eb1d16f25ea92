"""Requests to a server over `http.client`, multipart forms, and the one shape of an error.

    answer = post(url, picture, prompt="sepia", n="2")
    assert error_of(answer) == (400, "invalid_request")

`ask` sends one request over a connection that the caller keeps.
"""

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """The answer of a server."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return the answer. Raises `OSError` or `HTTPException` if the server dies before."""
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Answer(response.status, response.read())


BOUNDARY = "b"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"--{BOUNDARY}--\r\n".encode()


def part(name: str, data: bytes, *headers: str, boundary: str = BOUNDARY) -> bytes:
    """One field of a multipart form."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return raw_part("\r\n".join([disposition, *headers]), data, boundary=boundary)


def raw_part(head: str, data: bytes, *, boundary: str = BOUNDARY) -> bytes:
    """One part of a multipart form; its head is lines without the last CRLF."""
    return f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n"


def multipart(*fields: tuple[str, bytes]) -> bytes:
    """A whole form; its headers are `MULTIPART`."""
    return b"".join(part(name, data) for name, data in fields) + END


def form(fields: Mapping[str, str], picture: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body of a `POST /edit`, and its headers."""
    body = multipart(
        *((name, value.encode()) for name, value in fields.items()), ("image", picture)
    )
    return body, dict(MULTIPART)


def post(url: str, picture: bytes, **fields: str) -> Answer:
    """Submit a picture over a connection of its own."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)) as connection:
        return ask(connection, "POST", "/edit", *form({"prompt": "sepia", **fields}, picture))


def error_of(answer: Answer) -> tuple[int, str]:
    """The status and the code of an error; the body must be in the one shape of all errors."""
    body = answer.json()
    assert list(body) == ["error"], body
    assert body["error"]["message"]
    return answer.status, body["error"]["code"]


def is_error(answer: Answer) -> bool:
    """Whether the answer is in the one shape that all errors have."""
    try:
        error = answer.json()["error"]
        return isinstance(error["code"], str) and isinstance(error["message"], str)
    except (ValueError, KeyError, TypeError):
        return False
