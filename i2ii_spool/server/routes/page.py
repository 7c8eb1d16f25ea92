"""The routes of the web page. It needs no token: the page asks for one."""

from aiohttp import hdrs, web

from i2ii_spool.errors import NotFound
from i2ii_spool.server.assets import (
    ASSETS,
    COMPRESSED,
    INDEX,
    MEDIA_TYPES,
    accepts_gzip,
    extension,
)

POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""The page runs its own scripts alone, and asks no other server."""
FOR_EVER = "public, max-age=31536000, immutable"


async def index(request: web.Request) -> web.Response:
    """Show the web page."""
    assets, is_gzipped = request.app[ASSETS], accepts_gzip(request)
    tag = f"{assets.digest}-gzip" if is_gzipped else assets.digest
    known = request.if_none_match or ()
    headers: dict[str, str] = {hdrs.ETAG: f'"{tag}"', hdrs.CACHE_CONTROL: "no-cache"}
    if any(each.value in ("*", tag) for each in known):
        return web.Response(status=304, headers={**headers, hdrs.VARY: hdrs.ACCEPT_ENCODING})
    return await _answer(request, INDEX, is_gzipped, headers)


async def asset(request: web.Request) -> web.Response:
    """Fetch a file of the web page."""
    assets, name = request.app[ASSETS], request.match_info["name"]
    is_current = request.match_info["digest"] == assets.digest
    if not is_current or name not in assets or name == INDEX:
        raise NotFound("the page has no such file, or is another version; load it again")
    is_gzipped = extension(name) not in COMPRESSED and accepts_gzip(request)
    return await _answer(request, name, is_gzipped, {hdrs.CACHE_CONTROL: FOR_EVER})


async def _answer(
    request: web.Request, name: str, is_gzipped: bool, headers: dict[str, str]
) -> web.Response:
    headers = {
        **headers,
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if is_gzipped:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    media_type = MEDIA_TYPES[extension(name)]
    charset = "utf-8" if extension(name) not in COMPRESSED else None
    body = await request.app[ASSETS].body(name, is_gzipped=is_gzipped)
    return web.Response(body=body, content_type=media_type, charset=charset, headers=headers)
