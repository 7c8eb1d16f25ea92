"""`/docs` in a real browser: it shows the API, and asks no other host."""

import pytest
from playwright.async_api import Request

from tests.support import browser
from tests.support.app import Connect

pytestmark = pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))


async def test_the_page_shows_the_api_and_stays_at_home(connect: Connect) -> None:
    client = await connect()
    asked: list[str] = []
    said: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    async with browser.browser() as page:
        page.on("request", note)
        page.on("console", lambda message: said.append(message.text))
        await page.goto(str(client.make_url("/docs")))
        await page.get_by_text("Submit a job").first.wait_for()
        await page.get_by_text("/v1/images/edits").first.wait_for()
    own = str(client.make_url("/"))
    assert {url.removeprefix(own) for url in asked if not url.startswith(("data:", "blob:"))} <= {
        *("docs", "docs/rapidoc.js", "openapi.json", "favicon.ico")
    }
    assert not [text for text in said if "Content Security Policy" in text]
