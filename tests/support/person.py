"""A person at the web page, in a real browser.

async with at(url, locale="zh-CN") as person:
    await person.give(photo)
    await person.send("watercolour")
    await person.sees("Result 1")

`at` fails if the page has reported an error by itself. What the network reports is no error of
the page: a server that is away is.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import ConsoleMessage, Locator, Page, Request, expect

from tests.support.browser import browser

expect.set_options(timeout=20_000)
OF_THE_NETWORK = "Failed to load resource"
WIDE = {"width": 1360, "height": 850}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


def job_of(url: str) -> str:
    """The id of the job in an address of the page, or nothing."""
    found = re.search(r"#job/([^/]+)", url)
    return found[1] if found else ""


class Person:
    """What a person does and sees."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.requests: list[Request] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and OF_THE_NETWORK not in message.text:
            self.errors.append(message.text)

    async def open(self, view: str = "") -> None:
        """Open the page anew at `gallery`, `queue` or `job/ID`."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.url}/#{view}")
        await expect(self.page.locator("main")).to_be_visible()

    async def go(self, view: str = "") -> None:
        """Go to another view of the open page."""
        await self.page.evaluate("view => { location.hash = view; }", view)

    async def give(self, *pictures: Path) -> None:
        """Choose pictures, and wait until they are in the sentence."""
        picker = self.page.locator("input[type=file]:not([capture])")
        await picker.set_input_files([str(picture) for picture in pictures])
        in_sentence = self.page.locator(".tray li:not(.addli)")
        await expect(in_sentence.nth(len(pictures) - 1)).to_be_visible()

    async def send(self, instruction: str) -> str:
        """Write an instruction and send it; return the id of the job that the page then shows."""
        before = self.job()
        await self.page.fill("#prompt", instruction)
        await self.page.keyboard.press("Control+Enter")
        await self.page.wait_for_url(lambda url: job_of(url) not in ("", before))
        return self.job()

    def job(self) -> str:
        """The id of the job in the address, or nothing."""
        return job_of(self.page.url)

    def title(self) -> Locator:
        """What the stage says of the picture on it: its name, and how far it is."""
        return self.page.locator(".stagebar .title")

    async def sees(self, text: str) -> None:
        """Wait until the page shows a text."""
        await expect(self.page.get_by_text(text, exact=True).first).to_be_visible()

    async def sees_result(self, number: int = 1) -> None:
        """Wait until the stage compares this result, counted from the original."""
        await expect(self.title().locator("p")).to_contain_text(f"Result {number}")
        await self.pictures_are_loaded()

    async def leave_the_sentence(self) -> None:
        """Take the focus from what is typed into: keys are commands then."""
        await self.page.evaluate("() => document.activeElement.blur()")

    async def pictures_are_loaded(self) -> None:
        """Wait until all pictures in sight are there."""
        await self.page.wait_for_function(
            """() => [...document.querySelectorAll("main img")].every(image => {
                const box = image.getBoundingClientRect();
                const isSeen = box.bottom > 0 && box.top < innerHeight && box.width > 0;
                return !isSeen || (image.complete && image.naturalWidth > 0);
            })"""
        )

    def button(self, name: str, *, exact: bool = False) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact).first


@asynccontextmanager
async def at(url: str, **options: Any) -> AsyncIterator[Person]:
    """Yield a person whose browser has the page open."""
    async with browser(**{"viewport": WIDE, "locale": "en-GB", **options}) as page:
        person = Person(page, url)
        await person.open()
        yield person
        assert person.errors == []
