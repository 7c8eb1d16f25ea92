"""A connection on which anything may be sent, and the pieces of what a good client sends."""

import http.client
import re
import socket
import sys
from typing import Self
from urllib.parse import urlsplit

from tests.support.http import Answer, multipart
from tests.support.pictures import gradient, saved
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

    def answer(self) -> Answer:
        """The next answer."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return Answer(response.status, response.read())

    def is_closed(self) -> bool:
        """Whether the other side closes it, sooner or later."""
        try:
            while self.socket.recv(2**16):
                pass
        except ConnectionResetError:
            pass
        return True


def head(*more: str, method: str = "POST", path: str = "/edit", boundary: str = "b") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: a",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = multipart(("image", PICTURE), ("prompt", b"sepia"))


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"
