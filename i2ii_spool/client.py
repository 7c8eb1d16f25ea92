"""Submitting and waiting from Python: over HTTP, async or not, or straight into a spool.

    with Client("http://127.0.0.1:8000") as client:
        id = client.submit([Path("photo.jpg")], EditRequest(prompt="turn this into a watercolour"))
        client.wait(id)
        Path("result.png").write_bytes(client.result(id))

All three have the same methods, and raise the errors of `i2ii_spool.errors`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from i2ii_spool.errors import EngineError, I2iiError, NotFound
from i2ii_spool.job import EditRequest
from i2ii_spool.spool import actions, submit
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import JobStatus, read_status

POLL = 0.2
LONG_POLL = 30

OnStatus = Callable[[JobStatus], None]


class AsyncClient:
    """A server's client, for `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, pictures: Sequence[Path | bytes], request: EditRequest) -> str:
        """Send pictures, as paths or as their bytes, and the request; return the job's id once it is accepted."""
        form = aiohttp.FormData()
        for name, value in request.model_dump(exclude_defaults=True).items():
            form.add_field(name, str(value))
        for picture in pictures:
            data = picture if isinstance(picture, bytes) else await asyncio.to_thread(picture.read_bytes)
            form.add_field("image", data, filename="image")
        answer = await self._call("POST", "/edit", data=form)
        return str(answer["request_id"])

    async def status(self, id: str, *, wait: float = 0) -> JobStatus:
        """Return the job's status; with `wait`, once it has ended or so many seconds are over."""
        return JobStatus.model_validate(await self._call("GET", f"/status/{id}", params={"wait": str(wait)}))

    async def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended; until then tell `on_status` how it goes, if somebody listens."""
        while True:
            status = await self.status(id, wait=POLL if on_status else LONG_POLL)
            if on_status is not None:
                on_status(status)
            if status.has_ended:
                return status

    async def result(self, id: str, n: int = 1) -> bytes:
        """Return the file of picture `n`."""
        async with self._session.get(f"{self._url}/result/{id}", params={"n": n}) as response:
            if response.status != 200:
                raise _error(response.status, await response.json())
            return await response.read()

    async def cancel(self, id: str) -> None:
        """Stop a job that waits or runs; delete one that has ended."""
        await self._call("DELETE", f"/jobs/{id}")

    async def system(self) -> dict[str, Any]:
        """Return the counts and the workers."""
        return await self._call("GET", "/system/status")

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                answer: dict[str, Any] = await response.json()
        except aiohttp.ClientConnectionError as error:
            raise I2iiError(f"no server answers at {self._url}: {error}", code="no_server") from error
        if response.status >= 400:
            raise _error(response.status, answer)
        return answer


def _error(status: int, answer: dict[str, Any]) -> I2iiError:
    said = answer.get("error", {})
    kind = NotFound if status in (404, 410) else I2iiError
    return kind(said.get("message", f"status {status}"), code=said.get("code"), field=said.get("field"))


class Client:
    """A server's client, for `with`."""

    def __init__(self, url: str) -> None:
        self._client = AsyncClient(url)
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
        """Stop a job that waits or runs; delete one that has ended."""
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
            time.sleep(POLL)

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the file of picture `n`."""
        outputs = read_status(self._spool, id).outputs
        if outputs is None or n > len(outputs):
            raise EngineError(f"job {id} has no picture {n}")
        return (find(self._spool, id).folder / outputs[n - 1]).read_bytes()

    def cancel(self, id: str) -> None:
        """Stop a job that waits or runs."""
        actions.cancel(self._spool, id)
