"""A receiver of webhooks: a real HTTP server that verifies each message, and answers as told.

with Receiver() as receiver:
    receiver.answers = [503, 204]                 # then the last one again and again
    submit(webhook=receiver.url)
    [message] = wait_until(lambda: receiver.of(id))
"""

import base64
import json
import secrets
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from standardwebhooks.webhooks import Webhook

from i2ii_spool.spool.history import history
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import status_of
from i2ii_spool.spool.webhook import Delivery, write_delivery

HOOK = "https://example.com/hook"
"""Nobody tells it anything."""


def new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def note_attempt(spool: Spool, job: str, **noted: Any) -> None:
    """Do to the spool what a deliverer does after an attempt to tell of a job's end."""
    location = find(spool, job)
    status = status_of(spool, location)
    assert status is not None
    assert status.completed_at is not None
    end = history(location, status)[-1]
    delivery = Delivery(
        id=end.id, type=f"job.{end.name}", at=status.completed_at, **{"attempts": 1, **noted}
    )
    write_delivery(spool, job, delivery, is_end=True)


class Message(NamedTuple):
    """A message as it arrived, verified."""

    id: str
    type: str
    job: str
    data: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    path: str
    answer: int


class Receiver:
    """Listens on a free port of this host, with `tls` by https; `secret` is what it verifies
    with."""

    def __init__(self, secret: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.secret = secret or new_secret()
        self._tls = tls
        self.messages: list[Message] = []
        self.answers: list[int] = [204]
        self.headers: Mapping[str, str] = {}
        self.wrong: list[str] = []
        """What could not be verified."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.arrived = 0
        """Requests, also those that are not answered yet."""

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?job=1"
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}/hook?job=1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        headers = dict(request.headers.items())
        self.arrived += 1
        try:
            told = Webhook(self.secret).verify(body, headers)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            request.send_error(400)
            return
        self.may_answer.wait(60)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        id, data = headers["webhook-id"], told["data"]
        message = Message(
            *(id, told["type"], data["request_id"], data, headers, body, request.path, answer)
        )
        assert json.loads(body) == told
        self.messages.append(message)
        request.send_response(answer)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def of(self, job: str, kind: str = "") -> list[Message]:
        """What was told of a job, of one type or of all."""
        told = [each for each in list(self.messages) if each.job == job]
        return [each for each in told if kind in ("", each.type)]
