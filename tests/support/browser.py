"""A real browser, Chromium, and the pages that tests show in it.

async with browser() as page:                   # of Playwright
    async with site(html) as origin:            # http://localhost:PORT
        await page.goto(origin)
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import Page

CHROMIUM = "chromium"


def why_not() -> str | None:
    """Why there can be no browser here, or None."""
    return None if shutil.which(CHROMIUM) else f"{CHROMIUM} is not there"


@asynccontextmanager
async def browser(**options: Any) -> AsyncIterator["Page"]:
    """Yield an empty page of a browser; the options are those of a context of Playwright."""
    # `.ci/run` asks `why_not` before anything is installed.
    from playwright.async_api import async_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=arguments
        )
        try:
            context = await chromium.new_context(**options)
            yield await context.new_page()
        finally:
            await chromium.close()


@asynccontextmanager
async def site(html: str) -> AsyncIterator[str]:
    """Serve a page at `/`; yield its origin."""
    from aiohttp import web

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost", 0).start()
        yield f"http://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
