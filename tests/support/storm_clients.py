"""HTTP clients of a storm: they submit, fetch, cancel, retry and delete, and check each answer.

    ledger = Ledger()
    Client(urls, spool, picture, ledger, chance).run(stopping)
    assert not ledger.complaints

An answer that the documentation does not allow is a complaint. A client whose server dies goes to
another one; it repeats only a submit with an Idempotency-Key.
"""

import http.client
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from i2ii_spool.spool.layout import Spool
from tests.support.http import Answer, ask, form, is_error
from tests.support.pictures import is_same_picture
from tests.support.service import wait_until

BACKLOG = 24
"""Jobs that may wait before the clients pause."""
PAUSE = 0.1
"""Seconds of such a pause, after which a client does one more thing."""
PATIENCE = 60.0
"""Seconds after which a server that has not answered hangs."""

POISONS = ("hang", "kill", "eat", "raise")
POISON_EVERY = 50

DOCUMENTED = {
    "submit": {202},
    "status": {200, 410},
    "result": {200, 202, 409, 410},
    "delete": {200, 202, 409, 410},
    "retry": {202, 409, 410},
}
WAITERS = {"crashed", "cancelled", "engine_error"}


class Lost(Exception):
    """The server died before it had answered."""


@dataclass
class JobHistory:
    """What the clients know of one job; all of them add to it."""

    prompt: str
    pictures: int
    delete_sent: bool = False
    is_gone: bool = False
    cancels: list[float] = field(default_factory=list)
    """When each cancel was sent that was answered with `cancelled`."""
    retries: list[float] = field(default_factory=list)
    """When each retry was over that was not refused; it may have been lost."""


class Ledger:
    """What the clients were promised, and what was wrong."""

    def __init__(self) -> None:
        self.histories: dict[str, JobHistory] = {}
        self.failed: list[str] = []
        self.complaints: list[str] = []
        self.numbers = itertools.count()
        self.untouched: dict[str, str] = {}
        """The first of each poison: no client cancels or deletes it, so that it ends by itself.
        """
        self._touchable: list[str] = []

    def accept(self, id: str, history: JobHistory) -> None:
        """Take note of an accepted job."""
        if id in self.histories:
            self.complaints.append(f"{id} was given twice")
        self.histories[id] = history
        if history.prompt not in POISONS or self.untouched.setdefault(history.prompt, id) != id:
            self._touchable.append(id)

    def pick(self, chance: random.Random, last: int = 0) -> str | None:
        """One of the jobs that were accepted last, or of all."""
        return chance.choice(self._touchable[-last:]) if self._touchable else None


def prompt_of(number: int) -> str:
    """What the job with this number asks for: now and then it is poison."""
    turn, place = divmod(number, POISON_EVERY)
    return POISONS[turn % len(POISONS)] if place == POISON_EVERY // 2 else "sepia"


class Client:
    """One client of the storm."""

    def __init__(
        self,
        urls: Callable[[], list[str]],
        spool: Spool,
        picture: bytes,
        ledger: Ledger,
        chance: random.Random,
    ) -> None:
        self._urls = urls
        self._spool = spool
        self._picture = picture
        self._ledger = ledger
        self._chance = chance
        self._connection: http.client.HTTPConnection | None = None
        self._deeds = {
            self._submit: 40,
            self._status: 25,
            self._result: 20,
            self._delete: 10,
            self._retry: 5,
        }

    def run(self, stopping: threading.Event) -> None:
        """Do one thing after the other until told to stop."""
        while not stopping.is_set():
            self._pause(stopping)
            deed, *_ = self._chance.choices(list(self._deeds), list(self._deeds.values()))
            try:
                deed()
            except Lost:
                stopping.wait(0.05)
        self._hang_up()

    def _pause(self, stopping: threading.Event) -> None:
        if len(os.listdir(self._spool.incoming)) > BACKLOG:
            stopping.wait(PAUSE)

    # --- deeds ------------------------------------------------------------------------------------

    def _submit(self) -> None:
        number = next(self._ledger.numbers)
        history = JobHistory(prompt_of(number), pictures=self._chance.choice((1, 1, 2)))
        fields = {
            "prompt": history.prompt,
            "n": str(history.pictures),
            "seed": str(number),
            "num_inference_steps": "10",
        }
        body, headers = form(fields, self._picture)
        if self._chance.random() < 0.3:
            id = self._insist(body, {**headers, "Idempotency-Key": f"storm-{number}"})
        else:
            id = self._send(body, headers)
        self._ledger.accept(id, history)

    def _insist(self, body: bytes, headers: dict[str, str]) -> str:
        """Send the form until it is answered, and once more, as if that answer had been lost: it is
        one job."""

        def answered() -> str | None:
            try:
                return self._send(body, headers)
            except Lost:
                return None

        first = wait_until(answered, seconds=2 * PATIENCE)
        self._hang_up()  # the next one may go to another server
        again = wait_until(answered, seconds=2 * PATIENCE)
        if again != first:
            self._complain(f"one Idempotency-Key has made two jobs, {first} and {again}")
        return str(first)

    def _send(self, body: bytes, headers: dict[str, str]) -> str:
        return str(self._ask("submit", "POST", "/edit", body, headers).json()["request_id"])

    def _status(self) -> None:
        if (id := self._ledger.pick(self._chance, last=50)) is None:
            return
        wait = self._chance.choice(("", "", "", "?wait=1"))
        answer = self._ask_about(id, "status", "GET", f"/status/{id}{wait}")
        if answer.status == 200:
            self._check_status(id, answer.json())

    def _check_status(self, id: str, shown: dict[str, Any]) -> None:
        history = self._ledger.histories[id]
        match shown["status"]:
            case "completed":
                is_right = (
                    len(shown.get("outputs", ())) == history.pictures
                    and history.prompt not in POISONS
                )
            case "failed" | "cancelled":
                is_right = shown["error"]["code"] in WAITERS
                self._ledger.failed.append(id)
            case status:
                is_right = status in ("queued", "running")
        if not is_right or shown["request_id"] != id or shown.get("prompt") != history.prompt:
            self._complain(f"the status of {id}, {history}, is {shown}")

    def _result(self) -> None:
        if (id := self._ledger.pick(self._chance, last=200)) is None:
            return
        number = self._chance.randint(1, self._ledger.histories[id].pictures)
        answer = self._ask_about(id, "result", "GET", f"/result/{id}?n={number}")
        if answer.status == 200 and not is_same_picture(answer.body, self._picture):
            self._complain(f"picture {number} of {id} is torn, or another's")
        if answer.status == 409 and answer.json()["error"]["code"] not in WAITERS:
            self._complain(f"{id} failed of {answer.json()}")

    def _delete(self) -> None:
        """Cancel or delete: which of them, the job's state decides."""
        if (id := self._ledger.pick(self._chance, last=self._chance.choice((10, 0)))) is None:
            return
        history, sent = self._ledger.histories[id], time.monotonic()
        history.delete_sent = True
        answer = self._ask_about(id, "delete", "DELETE", f"/jobs/{id}")
        match answer.json().get("status") if answer.status == 200 else None:
            case "cancelled":
                history.cancels.append(sent)
            case "deleted":
                history.is_gone = True

    def _retry(self) -> None:
        if not self._ledger.failed:
            return
        id = self._chance.choice(self._ledger.failed[-50:])
        is_refused = False
        try:
            is_refused = self._ask_about(id, "retry", "POST", f"/jobs/{id}/retry").status != 202
        finally:
            if not is_refused:
                self._ledger.histories[id].retries.append(time.monotonic())

    # --- HTTP -------------------------------------------------------------------------------------

    def _ask_about(self, id: str, deed: str, method: str, path: str) -> Answer:
        history = self._ledger.histories[id]
        was_gone = history.is_gone
        answer = self._ask(deed, method, path)
        if answer.status == 410 and not history.delete_sent:
            self._complain(f"{id} is gone, and no client has deleted it")
        if answer.status != 410 and was_gone:
            self._complain(f"{id} was gone, and is back: {answer}")
        return answer

    def _ask(
        self,
        deed: str,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        try:
            answer = ask(self._connect(), method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            if isinstance(error, TimeoutError):
                self._complain(f"{method} {path}: no answer within {PATIENCE} s")
            raise Lost from error
        if answer.status not in DOCUMENTED[deed] or (answer.status >= 400 and not is_error(answer)):
            self._complain(f"{method} {path} is answered with {answer}")
            raise Lost
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            urls = self._urls()
            if not urls:
                raise ConnectionRefusedError("no server has come up yet")
            url = self._chance.choice(urls)
            self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _complain(self, complaint: str) -> None:
        self._ledger.complaints.append(complaint)
