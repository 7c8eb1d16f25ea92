"""A connection on which anything may be sent, and the pieces of what a good client sends."""

import http.client
import json
import re
import socket
import sys
from typing import Self
from urllib.parse import urlsplit

from tests.support.hostile_pictures import gradient, saved
from tests.support.service import Service, wait_until

PICTURE = saved(gradient(), "PNG")

SERVER = """
from i2ii_spool.cli import main
from i2ii_spool.server import connection, limits
{changes}
main(["serve", "--port", "0"])
"""


def serve_with(service: Service, changes: str, **settings: str) -> str:
    """Start a server with other constants than ours; return its URL."""
    service.start(sys.executable, "-c", SERVER.format(changes=changes), **settings)
    return wait_until(lambda: re.search(r"listening on (http://\S+),", service.read_log()))[1]


class Wire:
    """A connection on which anything may be sent."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send; whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> tuple[int, dict[str, object]]:
        """The next answer's status and JSON."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        body = response.read()
        return response.status, json.loads(body) if body else {}

    def is_closed(self) -> bool:
        """Whether the other side closes it, sooner or later."""
        try:
            while self.socket.recv(2**16):
                pass
        except ConnectionResetError:
            pass
        return True


def error_of(answer: tuple[int, dict[str, object]]) -> tuple[int, str]:
    """The status and the code of an error in the one shape."""
    status, body = answer
    assert list(body) == ["error"], body
    error = body["error"]
    assert isinstance(error, dict)
    assert error["message"]
    return status, error["code"]


def head(*more: str, method: str = "POST", path: str = "/edit", boundary: str = "b") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: a",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def part(name: str, value: bytes, *more: str, boundary: str = "b") -> bytes:
    lines = [f"--{boundary}", f'Content-Disposition: form-data; name="{name}"', *more, ""]
    return "\r\n".join(lines).encode() + b"\r\n" + value + b"\r\n"


END = b"--b--\r\n"
GOOD = part("image", PICTURE) + part("prompt", b"sepia") + END


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"
