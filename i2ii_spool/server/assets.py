"""The web page: its files, which a server reads once, when it starts.

Their path holds a digest of them all, so that a browser keeps them for ever, and never mixes those
of two versions.
"""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from importlib.resources import files

from aiohttp import hdrs, web

FOLDER = files("i2ii_spool.server") / "page"
MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "webp": "image/webp",
    "png": "image/png",
}
"""By the extension of a file. No other file is served."""
COMPRESSED = ("webp", "png")
"""They are compressed already."""
INDEX = "index.html"
OF_DOCS = ("docs.html",)
"""The page of `/docs`."""
PLACEHOLDER = b"{assets}"
"""Stands in `index.html` for the path of the other files."""
DIGEST_LENGTH = 16


class Assets:
    """The files of the page by name, and their digest."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        digest = hashlib.sha256()
        for name, data in sorted(contents.items()):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        self.digest = digest.hexdigest()[:DIGEST_LENGTH]
        self._contents = {
            **contents,
            INDEX: contents[INDEX].replace(PLACEHOLDER, f"/page/{self.digest}".encode()),
        }
        self._gzipped: dict[str, bytes] = {}

    @classmethod
    def read(cls) -> "Assets":
        """Return the files of this package."""
        names = [each.name for each in FOLDER.iterdir() if extension(each.name) in MEDIA_TYPES]
        return cls({name: (FOLDER / name).read_bytes() for name in names if name not in OF_DOCS})

    def __contains__(self, name: str) -> bool:
        return name in self._contents

    async def body(self, name: str, *, is_gzipped: bool) -> bytes:
        """Return the contents of a file."""
        if not is_gzipped:
            return self._contents[name]
        if name not in self._gzipped:
            self._gzipped[name] = await asyncio.to_thread(_gzip, self._contents[name])
        return self._gzipped[name]


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def extension(name: str) -> str:
    """Return the extension of a file name, without its dot."""
    return name.rpartition(".")[2]


def accepts_gzip(request: web.Request) -> bool:
    """Return whether the client takes gzip (RFC 9110, 12.5.3)."""
    for part in ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])).split(","):
        coding, _, weight = part.partition(";")
        if coding.strip().lower() == "gzip":
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


ASSETS = web.AppKey("assets", Assets)


async def run_assets(app: web.Application) -> AsyncIterator[None]:
    """Read the page: it stays that of this server's version while the package is replaced."""
    app[ASSETS] = await asyncio.to_thread(Assets.read)
    yield
