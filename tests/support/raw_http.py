"""A socket for requests that no client library sends.

    with Wire(url) as wire:
        wire.send(head(length(GOOD)) + GOOD)
        assert wire.answer().status == 202

`PICTURE`, `GOOD`, `head` and `length` are parts of a request.
"""

import http.client
import socket
from typing import Self
from urllib.parse import urlsplit

from tests.support.http import Answer, multipart
from tests.support.pictures import gradient, saved

PICTURE = saved(gradient(), "PNG")


class Wire:
    """One connection, for any bytes; from an address of 127.0.0.0/8."""

    def __init__(self, url: str, source: str = "127.0.0.1") -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection(
            (address.hostname, address.port), timeout=30, source_address=(source, 0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send; return whether the server still reads."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def get(self, path: str, *headers: str) -> Answer:
        """The answer to a GET."""
        self.send(get(path, *headers))
        return self.answer()

    def begins_with(self) -> bytes:
        """The first 13 bytes of what the server sends, left for `answer`: `HTTP/1.1 202 `."""
        return self.socket.recv(13, socket.MSG_PEEK | socket.MSG_WAITALL)

    def answer(self) -> Answer:
        """The next answer."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return Answer(response.status, response.read())

    def is_closed(self) -> bool:
        """Wait until the server closes the connection."""
        try:
            while self.socket.recv(2**16):
                pass
        except ConnectionResetError:
            pass
        return True


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def head(*more: str, method: str = "POST", path: str = "/edit", boundary: str = "b") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = multipart(("image", PICTURE), ("prompt", b"sepia"))


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"
