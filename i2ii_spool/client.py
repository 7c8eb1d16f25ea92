"""Submitting and waiting from Python: over HTTP, async or not, or straight into a spool.

    with Client("http://127.0.0.1:8000") as client:
        id = client.submit([Path("photo.jpg")], EditRequest(prompt="turn this into a watercolour"))
        client.wait(id)
        Path("result.png").write_bytes(client.result(id))

All three submit, wait, fetch and cancel alike, and raise the errors of `i2ii_spool.errors`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from i2ii_spool.errors import I2iiError, InvalidRequest, NoServer, WrongState, from_answer
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, submit
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import JobStatus, no_result, no_such_picture, read_status
from i2ii_spool.spool.submit import check_image_count

POLL_SECONDS = 0.2
LONG_POLL_SECONDS = 30


OnStatus = Callable[[JobStatus], None]


class AsyncClient:
    """A server's client, for `async with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise InvalidRequest(
                f"{url} is no server's URL; one looks like http://127.0.0.1:8000", field="url"
            )
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, pictures: Sequence[Path | bytes], request: EditRequest) -> str:
        """Send pictures, as paths or as their bytes, and the request; return the job's id once it
        is accepted."""
        check_image_count(len(pictures))
        form = aiohttp.FormData()
        for name, value in request.model_dump(exclude_unset=True).items():
            form.add_field(name, str(value))
        for picture in pictures:
            data = (
                picture
                if isinstance(picture, bytes)
                else await asyncio.to_thread(picture.read_bytes)
            )
            form.add_field("image", data, filename="image")
        answer = await self._call("POST", "/edit", data=form)
        return str(answer["request_id"])

    async def status(self, id: str, *, wait: float = 0) -> JobStatus:
        """Return the job's status; with `wait`, once it has ended or so many seconds are over."""
        return JobStatus.model_validate(
            await self._call("GET", f"/status/{id}", params={"wait": str(wait)})
        )

    async def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended; until then tell `on_status` how it goes, if
        somebody listens."""
        while True:
            status = await self.status(id, wait=POLL_SECONDS if on_status else LONG_POLL_SECONDS)
            if on_status is not None:
                on_status(status)
            if status.has_ended:
                return status

    async def result(self, id: str, n: int = 1) -> bytes:
        """Return the file of picture `n`. Raises `WrongState` while there is none."""
        async with self._answer("GET", f"/result/{id}", params={"n": n}) as response:
            if response.status == 202:
                raise no_result(JobStatus.model_validate(await response.json()))
            return await response.read()

    async def cancel(self, id: str) -> None:
        """Stop a job that waits or runs. Raises `WrongState` if it has ended."""
        status = await self.status(id)
        if status.has_ended:
            raise WrongState(f"job {id} is {status.status} already; there is nothing to cancel")
        await self._call("DELETE", f"/jobs/{id}")

    async def system(self) -> dict[str, Any]:
        """Return the counts and the workers."""
        return await self._call("GET", "/system/status")

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._answer(method, path, **options) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                if response.status >= 400:
                    raise await _error(response)
                yield response
        except aiohttp.ContentTypeError as error:
            said = f"{self._url} answers {error.status}, and not in JSON"
            raise NoServer(f"{said}: that is not an i2ii server") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise NoServer(f"no server answers at {self._url}: {error}") from error


async def _error(response: aiohttp.ClientResponse) -> I2iiError:
    """Return the error that the server raised."""
    described = (await response.json()).get("error", {})
    return from_answer(
        response.status, described, retry_after=int(response.headers.get("Retry-After", 1))
    )


class Client:
    """A server's client, for `with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._client = AsyncClient(url, token)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__())
        self._runner.close()

    def submit(self, pictures: Sequence[Path], request: EditRequest) -> str:
        """Send pictures and the request; return the job's id once it is accepted."""
        return self._runner.run(self._client.submit(pictures, request))

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended; until then tell `on_status` how it goes."""
        return self._runner.run(self._client.wait(id, on_status))

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the file of picture `n`."""
        return self._runner.run(self._client.result(id, n))

    def cancel(self, id: str) -> None:
        """Stop a job that waits or runs. Raises `WrongState` if it has ended."""
        self._runner.run(self._client.cancel(id))


class SpoolClient:
    """The same straight into a spool, without a server."""

    def __init__(self, spool: Spool, max_pixels: int) -> None:
        self._spool = spool
        self._max_pixels = max_pixels

    def submit(self, pictures: Sequence[Path], request: EditRequest) -> str:
        """Copy pictures and the request into the spool; return the job's id once it is on disk."""
        return submit.submit(self._spool, pictures, request, max_pixels=self._max_pixels)

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended; until then tell `on_status` how it goes."""
        while True:
            status = read_status(self._spool, id)
            if on_status is not None:
                on_status(status)
            if status.has_ended:
                return status
            time.sleep(POLL_SECONDS)

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the file of picture `n`."""
        status = read_status(self._spool, id)
        if status.outputs is None:
            raise no_result(status)
        if not 1 <= n <= len(status.outputs):
            raise no_such_picture(status, n)
        with open_regular(find(self._spool, id).folder / status.outputs[n - 1]) as file:
            return file.read()

    def cancel(self, id: str) -> None:
        """Stop a job that waits or runs. Raises `WrongState` if it has ended."""
        actions.cancel(self._spool, id)
