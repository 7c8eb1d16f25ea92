"""Submit jobs and wait for them in Python: over HTTP, with or without asyncio, or by the spool.

    with Client("http://127.0.0.1:8000") as client:
        picture = client.edit([Path("photo.jpg")], EditRequest(prompt="a watercolour"))
        picture.show()

`edit` submits, waits and fetches the result; each of the three is a method, too:

        id = client.submit([Path("photo.jpg")], EditRequest(prompt="a watercolour"))
        client.wait(id)
        Path("result.png").write_bytes(client.result(id))

`Client`, `AsyncClient` and `SpoolClient` have the same methods and raise the errors of
`i2ii_spool.errors`.
"""

import asyncio
import io
import json
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from PIL import Image
from pydantic import ValidationError

from i2ii_spool.errors import InvalidRequest, NoServer, TryLater, WrongState, from_answer
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, submit
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import JobStatus, no_result, no_such_picture, read_status
from i2ii_spool.spool.submit import check_image_count
from i2ii_spool.spool.webhook import NO_WEBHOOKS, WebhookPolicy

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
POLL_SECONDS = 0.2
LONG_POLL_SECONDS = 30
CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 60.0
"""Seconds without a byte of an answer after which there is no server."""
MIN_UPLOAD_RATE = 4096
"""Bytes a second; a server takes no slower upload."""
RECONNECT_SECONDS = 60.0
"""For so long, `wait` and `result` ask a server again that was there before: it may restart."""

Picture = Path | bytes | Image.Image
"""The path of a file, the contents of one, or a picture that Pillow has opened or made."""
Answer = TypeVar("Answer")
OnStatus = Callable[[JobStatus], None]
"""Called with each status of a job while `wait` waits."""


class AsyncClient:
    """A client of a server. Use it with `async with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise InvalidRequest(
                f"{url} is not the URL of a server; one looks like http://127.0.0.1:8000",
                field="url",
            )
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS
        )
        self._has_answered = False
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        key: str | None = None,
    ) -> str:
        """Submit pictures with a request; return the job's id.

        Of the first picture only what is transparent in `mask`, if any, is edited. The job is on
        the server's disk then. To a server that has answered before, a submit whose answer is lost
        is sent again, with the same `Idempotency-Key`: `key`, or one that is drawn.
        """
        check_image_count(len(pictures))
        headers = {"Idempotency-Key": key or secrets.token_urlsafe(16)}
        files = [("image", await asyncio.to_thread(_file, picture)) for picture in pictures]
        if mask is not None:
            files.append(("mask", await asyncio.to_thread(_file, mask)))
        return await self._again(lambda: self._submit(files, request, headers))

    async def _submit(
        self,
        files: Sequence[tuple[str, Path | bytes]],
        request: EditRequest,
        headers: dict[str, str],
    ) -> str:
        form = aiohttp.FormData()
        size = 0
        for name, value in request.model_dump(exclude_unset=True, exclude_none=True).items():
            form.add_field(name, str(value))
        with ExitStack() as stack:
            for name, content in files:
                if isinstance(content, bytes):
                    size += len(content)
                    form.add_field(name, content, filename=name)
                else:  # it is sent as it is read
                    file = stack.enter_context(await asyncio.to_thread(content.open, "rb"))
                    size += os.fstat(file.fileno()).st_size
                    form.add_field(name, file, filename=name)
            limit = aiohttp.ClientTimeout(
                CONNECT_SECONDS + size / MIN_UPLOAD_RATE + ANSWER_SECONDS,
                connect=CONNECT_SECONDS,
                sock_read=ANSWER_SECONDS,
            )
            answer = await self._call("POST", "/edit", data=form, headers=headers, timeout=limit)
        if "request_id" not in answer:
            raise self._odd_answer("a submit without an id")
        self._has_answered = True
        return str(answer["request_id"])

    async def edit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        on_status: OnStatus | None = None,
    ) -> Image.Image:
        """Submit a job, wait until it has ended, and return its picture.

        Raises the errors of `submit` and `result`, and `InvalidRequest` for an `n` above 1: those
        results are fetched one by one.
        """
        _check_is_one(request)
        id = await self.submit(pictures, request, mask=mask)
        await self.wait(id, on_status)
        return _opened(await self.result(id))

    async def status(self, id: str, *, wait: float = 0) -> JobStatus:
        """Return the job's status; with `wait`, once it has ended, or after `wait` seconds."""
        limit = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=wait + ANSWER_SECONDS)
        return self._status(
            await self._call("GET", f"/status/{id}", params={"wait": str(wait)}, timeout=limit)
        )

    def _status(self, answer: dict[str, Any]) -> JobStatus:
        try:
            status = JobStatus.model_validate(answer)
        except ValidationError:
            raise self._odd_answer("something else than the status of a job") from None
        self._has_answered = True
        return status

    async def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` with each status until then.

        A restart of the server does not end it.
        """
        if on_status is not None:
            async for status in self.events(id):
                on_status(status)
            return status
        while True:
            status = await self._again(lambda: self.status(id, wait=LONG_POLL_SECONDS))
            if status.has_ended:
                return status

    async def events(self, id: str) -> AsyncGenerator[JobStatus, None]:
        """Yield the job's status as it is, and whenever it changes, up to its end.

        A restart of the server does not end it.
        """
        last: str | None = None
        ends_at: float | None = None
        while True:
            try:
                async with self._follow(id, last) as response:
                    async for event in _read_events(response):
                        last, ends_at = event.get("id", last), None
                        status = self._status(_json_object(event["data"]))
                        yield status
                        if status.has_ended:
                            return
                raise NoServer(f"the server at {self._url} has ended the events")
            except (NoServer, TryLater) as error:
                ends_at = await self._pause(error, ends_at)

    @asynccontextmanager
    async def _follow(self, id: str, last: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {} if last is None else {"Last-Event-ID": last}
        limit = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        async with self._answer("GET", f"/events/{id}", headers=headers, timeout=limit) as response:
            if response.content_type != "text/event-stream":
                raise self._odd_answer(f"{response.status} with {response.content_type}")
            yield response

    async def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1.

        Raises `WrongState` until the job has ended, `JobFailed` if it ended without a picture.
        """
        return await self._again(lambda: self._result(id, n))

    async def _result(self, id: str, n: int) -> bytes:
        async with self._answer("GET", f"/result/{id}", params={"n": n}) as response:
            if response.status == 202:
                raise no_result(self._status(await self._json(response)))
            if not response.content_type.startswith("image/"):
                raise self._odd_answer(f"{response.status} with {response.content_type}")
            return await response.read()

    async def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended otherwise."""
        answer = await self._call("POST", f"/jobs/{id}/cancel")
        if answer.get("status") not in ("cancelled", "running"):
            raise self._odd_answer("something else than a cancelled job")

    async def retry(self, id: str) -> None:
        """Put a failed or cancelled job back into the queue. Raises `WrongState`."""
        await self._call("POST", f"/jobs/{id}/retry")

    async def delete(self, id: str) -> None:
        """Delete a job that has ended. Raises `WrongState` if it waits or runs."""
        status = await self.status(id)
        if not status.has_ended:
            raise WrongState(f"job {id} is {status.status}; cancel it first")
        state = State.DONE if status.status == "completed" else State.FAILED
        await self._call("DELETE", f"/jobs/{id}", params={"state": state.value})

    async def system(self) -> dict[str, Any]:
        """Return the counts, the workers and the spool, as `GET /system/status` answers them."""
        return await self._call("GET", "/system/status")

    async def _again(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until the server answers, if it has answered before."""
        ends_at: float | None = None
        while True:
            try:
                return await ask()
            except (NoServer, TryLater) as error:
                ends_at = await self._pause(error, ends_at)

    async def _pause(self, error: NoServer | TryLater, ends_at: float | None) -> float:
        """Wait before the server is asked again, until `ends_at` on the monotonic clock; return
        that. Raises the error when the time is over."""
        now = time.monotonic()
        ends_at = ends_at or now + RECONNECT_SECONDS
        if not self._has_answered or now > ends_at:
            raise error
        pause = error.retry_after if isinstance(error, TryLater) else 1
        await asyncio.sleep(min(pause, RECONNECT_SECONDS))
        return ends_at

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._answer(method, path, **options) as response:
            return await self._json(response)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                if response.status >= 400:
                    described = (await self._json(response)).get("error")
                    if not isinstance(described, dict):
                        raise self._odd_answer(f"{response.status} without an error")
                    raise from_answer(response.status, described, _retry_after(response))
                yield response
        except TimeoutError as error:
            raise NoServer(f"the server at {self._url} does not answer in time") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise NoServer(f"no server answers at {self._url}: {error}") from error

    async def _json(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        try:
            answer = await response.json()
        except (aiohttp.ContentTypeError, ValueError):
            answer = None
        if not isinstance(answer, dict):
            raise self._odd_answer(f"{response.status}, and not with a JSON object")
        return answer

    def _odd_answer(self, what: str) -> NoServer:
        return NoServer(f"{self._url} is not an i2ii server: it answers {what}")


def _retry_after(response: aiohttp.ClientResponse) -> int:
    """Return the seconds of `Retry-After`, which a proxy may give as a date."""
    value = response.headers.get("Retry-After", "")
    return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else 1


class Client:
    """A client of a server. Use it with `with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._client = AsyncClient(url, token)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__())
        self._runner.close()

    def submit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        key: str | None = None,
    ) -> str:
        """Like `AsyncClient.submit`."""
        return self._runner.run(self._client.submit(pictures, request, mask=mask, key=key))

    def edit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        on_status: OnStatus | None = None,
    ) -> Image.Image:
        """Like `AsyncClient.edit`."""
        edit = self._client.edit(pictures, request, mask=mask, on_status=on_status)
        return self._runner.run(edit)

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` until then."""
        return self._runner.run(self._client.wait(id, on_status))

    def events(self, id: str) -> Iterator[JobStatus]:
        """Like `AsyncClient.events`."""
        events = self._client.events(id)
        try:
            while (status := self._runner.run(_next(events))) is not None:
                yield status
        finally:
            self._runner.run(events.aclose())

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1."""
        return self._runner.run(self._client.result(id, n))

    def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended otherwise."""
        self._runner.run(self._client.cancel(id))

    def retry(self, id: str) -> None:
        """Put a failed or cancelled job back into the queue. Raises `WrongState`."""
        self._runner.run(self._client.retry(id))

    def delete(self, id: str) -> None:
        """Delete a job that has ended. Raises `WrongState` if it waits or runs."""
        self._runner.run(self._client.delete(id))


class SpoolClient:
    """A client of a spool on this machine. It needs no server.

    `max_pixels` limits each picture that is submitted; `webhooks` says which are accepted:
    `WebhookPolicy.of(settings)`.
    """

    def __init__(
        self, spool: Spool, max_pixels: int, webhooks: WebhookPolicy = NO_WEBHOOKS
    ) -> None:
        self._spool = spool
        self._max_pixels = max_pixels
        self._webhooks = webhooks

    def submit(
        self, pictures: Sequence[Picture], request: EditRequest, *, mask: Picture | None = None
    ) -> str:
        """Submit pictures with a request; return the job's id. The job is on disk then.

        Of the first picture only what is transparent in `mask`, if any, is edited.
        """
        self._webhooks.check(request)
        return submit.submit(
            self._spool,
            [_file(picture) for picture in pictures],
            request,
            mask=None if mask is None else _file(mask),
            max_pixels=self._max_pixels,
        )

    def edit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        on_status: OnStatus | None = None,
    ) -> Image.Image:
        """Like `AsyncClient.edit`."""
        _check_is_one(request)
        id = self.submit(pictures, request, mask=mask)
        self.wait(id, on_status)
        return _opened(self.result(id))

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` until then."""
        for status in self.events(id):
            if on_status is not None:
                on_status(status)
        return status

    def events(self, id: str) -> Iterator[JobStatus]:
        """Yield the job's status as it is, and whenever it changes, up to its end."""
        shown: JobStatus | None = None
        while shown is None or not shown.has_ended:
            status = read_status(self._spool, id)
            if status != shown:
                yield status
                shown = status
            else:
                time.sleep(POLL_SECONDS)

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1."""
        status = read_status(self._spool, id)
        if status.outputs is None:
            raise no_result(status)
        if not 1 <= n <= len(status.outputs):
            raise no_such_picture(status, n)
        with open_regular(find(self._spool, id).folder / status.outputs[n - 1]) as file:
            return file.read()

    def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended."""
        actions.cancel(self._spool, id)

    def retry(self, id: str) -> None:
        """Put a failed or cancelled job back into the queue. Raises `WrongState`."""
        actions.retry(self._spool, id)

    def delete(self, id: str) -> None:
        """Delete a job that has ended. Raises `WrongState` if it waits or runs."""
        actions.delete_job(self._spool, id)


async def _next(events: AsyncIterator[JobStatus]) -> JobStatus | None:
    return await anext(events, None)


async def _read_events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Yield the events of a stream, each with its `event`, its `data` and, if it has one, `id`."""
    event: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        if name:
            event[name] = value
        elif "data" in event:
            yield event
            event = {}


def _json_object(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _file(picture: Picture) -> Path | bytes:
    """Return a picture as a file. Raises `InvalidRequest` for a mode that PNG does not have."""
    if not isinstance(picture, Image.Image):
        return picture
    if picture.mode not in PNG_MODES:
        raise InvalidRequest(
            f"image has the mode {picture.mode}; convert it to RGB or RGBA first", field="image"
        )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1, exif=picture.getexif())
    return buffer.getvalue()


def _check_is_one(request: EditRequest) -> None:
    """Raise `InvalidRequest` for a request that makes several pictures."""
    if request.n != 1:
        raise InvalidRequest(
            f"n must be 1: edit returns one picture, got {request.n}; submit the job, wait for "
            "it, and fetch each result",
            field="n",
        )


def _opened(content: bytes) -> Image.Image:
    """Return the picture of a file, decoded."""
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture
