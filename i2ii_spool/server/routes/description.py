"""The routes that describe the API: as OpenAPI, and as a page, which asks no other server."""

import asyncio
import gzip
from importlib.resources import files

from aiohttp import hdrs, web

from i2ii_spool.server.errors import json_response
from i2ii_spool.server.openapi import DESCRIPTION

PAGE = files("i2ii_spool.server") / "page"
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""The page sends and loads nothing elsewhere. `blob:` shows a picture that a request returned."""


async def openapi(request: web.Request) -> web.Response:
    """Describe the API for programs, in OpenAPI."""
    return json_response(request.app[DESCRIPTION].document)


async def docs(_request: web.Request) -> web.Response:
    """Show the description as a page, and try requests."""
    return web.Response(
        text=await asyncio.to_thread((PAGE / "docs.html").read_text),
        content_type="text/html",
        headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"},
    )


async def script(request: web.Request) -> web.Response:
    """Fetch the script of the page."""
    body = await asyncio.to_thread((PAGE / "rapidoc.js.gz").read_bytes)
    headers = {
        hdrs.CACHE_CONTROL: "public, max-age=86400",
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "X-Content-Type-Options": "nosniff",
    }
    if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower():
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    else:
        body = await asyncio.to_thread(gzip.decompress, body)
    return web.Response(body=body, content_type="text/javascript", headers=headers)
