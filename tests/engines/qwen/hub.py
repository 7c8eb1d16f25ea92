"""A hub on this machine that serves folders in the ways of Hugging Face and ModelScope, as their
clients ask."""

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Any

from aiohttp import web

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `folders` by their repositories' names from a thread of its own."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self.stalls = False
        """Whether nothing more comes after the first half of a file of weights."""
        self.has_stalled = threading.Event()
        self.asked: set[str] = set()
        """The files that were asked for."""
        self._goes_on = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Hub":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def go_on(self) -> None:
        """Stall no more."""
        self.stalls = False
        self._loop.call_soon_threadsafe(self._goes_on.set)

    def environment(self, cache: Path) -> dict[str, str]:
        """What has both clients ask here, and keep what they get under `cache`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache / "huggingface"),
            "MODELSCOPE_ENDPOINT": self.url,
            "MODELSCOPE_CACHE": str(cache / "modelscope"),
        }

    def _run(self) -> None:
        app = web.Application()
        app.router.add_get(
            "/api/models/{repository:[^/]+/[^/]+}/revision/{revision}", self._revision
        )
        app.router.add_get("/api/models/{repository:[^/]+/[^/]+}/tree/{revision}", self._tree)
        app.router.add_get("/{repository:[^/]+/[^/]+}/resolve/{revision}/{path:.*}", self._file)
        app.router.add_get("/api/v1/models/{repository:[^/]+/[^/]+}/repo/files", self._files)
        app.router.add_get("/api/v1/models/{repository:[^/]+/[^/]+}/repo", self._file)
        runner = web.AppRunner(app, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _all(self, request: web.Request) -> dict[str, Path]:
        folder = self._folders.get(request.match_info["repository"])
        if folder is None:
            raise web.HTTPNotFound
        return {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    async def _revision(self, request: web.Request) -> web.Response:
        siblings = [{"rfilename": name} for name in self._all(request)]
        return web.json_response(
            {"id": request.match_info["repository"], "sha": REVISION, "siblings": siblings}
        )

    async def _tree(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "type": "file",
                    "path": name,
                    "size": path.stat().st_size,
                    "oid": _digest(path)[:40],
                }
                for name, path in self._all(request).items()
            ]
        )

    async def _files(self, request: web.Request) -> web.Response:
        files = [
            {
                "Path": name,
                "Name": path.name,
                "Type": "blob",
                "Size": path.stat().st_size,
                "Sha256": _digest(path),
            }
            for name, path in self._all(request).items()
        ]
        return web.json_response({"Code": 200, "Success": True, "Data": {"Files": files}})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._all(request).get(request.match_info.get("path") or request.query["FilePath"])
        if path is None:
            raise web.HTTPNotFound
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": REVISION}
        if request.method == "GET":
            self.asked.add(str(path))
        if self.stalls and path.suffix == ".safetensors" and request.method == "GET":
            return await self._half(request, path, headers)
        return web.FileResponse(path, headers=headers)

    async def _half(
        self, request: web.Request, path: Path, headers: dict[str, Any]
    ) -> web.StreamResponse:
        data = path.read_bytes()
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self.has_stalled.set()
        await self._goes_on.wait()
        return response


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
