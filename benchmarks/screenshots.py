"""Make the pictures of the web page: `python -m benchmarks.screenshots [FOLDER]`.

It runs a server and two workers of the classic engine, and looks at them with Chromium. Without a
folder it makes those of the README; a folder gets one of every state, in both languages and looks.
"""

import asyncio
import io
import os
import re
import signal
import sys
import tempfile
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.async_api import expect

from i2ii_spool.server.assets import FOLDER
from tests.support.http import ask, form
from tests.support.person import PHONE, Person, at
from tests.support.service import Service, cli, wait_until

IMAGES = Path(__file__).parents[1] / "docs" / "images"
QUALITY = 86
DESK: dict[str, Any] = {"viewport": {"width": 1360, "height": 850}}
LOOKS: dict[str, dict[str, Any]] = {
    "light": DESK,
    "dark": {**DESK, "color_scheme": "dark"},
    "chinese": {**DESK, "locale": "zh-CN"},
    "phone": {**PHONE, "device_scale_factor": 2},
}
EDITS = [
    ("coffee", "Watercolour"),
    ("cat", "Pencil sketch"),
    ("astronaut", "Pop art"),
    ("cat", "Winter"),
    ("coffee", "水墨画"),
    ("astronaut", "Turn this into a comic"),
    ("cat", "Sunset"),
    ("coffee", "Vintage photo"),
]
PEOPLE = ("alice", "studio", "zhang-min")


class Stage:
    """A service with tokens, and pictures to edit."""

    def __init__(self, folder: Path) -> None:
        self.service = Service(folder)
        self.service.environment["I2II_TOKENS_FILE"] = str(folder / "tokens")
        self.operator = self._token("operator", "--operator")
        self.people = [self._token(name) for name in PEOPLE]
        self.pictures = {}
        for name in ("coffee", "cat", "astronaut"):
            picture = Image.open(io.BytesIO((FOLDER / f"original-{name}.webp").read_bytes()))
            self.pictures[name] = folder / f"{name}.png"
            picture.convert("RGB").save(self.pictures[name])
        self.url = self.service.serve()
        self.workers = [self.service.work(unit) for unit in ("0", "1")]

    def _token(self, name: str, *options: str) -> str:
        return cli(self.service, "token", "add", name, *options).stdout.split()[-1]

    def submit(self, picture: str, prompt: str, token: str, n: int = 1) -> str:
        """Submit a job as a program does."""
        body, headers = form({"prompt": prompt, "n": str(n)}, self.pictures[picture].read_bytes())
        headers["Authorization"] = f"Bearer {token}"
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=60)) as connection:
            id: str = ask(connection, "POST", "/edit", body, headers).json()["request_id"]
        return id

    def wait_for(self, id: str) -> None:
        ended = self.service.spool.done, self.service.spool.failed
        wait_until(lambda: any((folder / id).exists() for folder in ended), seconds=60)

    def pause(self, is_paused: bool) -> None:
        """Stop the workers where they are, or let them go on."""
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGSTOP if is_paused else signal.SIGCONT)


def save(picture: bytes, path: Path, width: int) -> None:
    """Save a screenshot, at most so wide."""
    with Image.open(io.BytesIO(picture)) as image:
        image.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
        image.convert("RGB").save(path, quality=QUALITY, method=6)


async def enter(person: Person, token: str) -> None:
    await person.page.fill("#token", token)
    await person.page.keyboard.press("Enter")
    await person.page.locator(".edit").first.wait_for()


async def finished(person: Person, stage: Stage) -> None:
    """A result beside its original, edited twice."""
    await person.give(stage.pictures["coffee"])
    await person.send("Watercolour" if await is_english(person) else "水彩")
    await person.page.locator(".cmp").wait_for()
    await person.pictures_are_loaded()


async def is_english(person: Person) -> bool:
    return bool(await person.page.evaluate("() => document.documentElement.lang === 'en'"))


async def queue(person: Person, stage: Stage) -> None:
    """Both GPUs work, others wait."""
    for index in range(40):
        picture, prompt = EDITS[index % len(EDITS)]
        stage.submit(picture, prompt, stage.people[index % len(PEOPLE)])
    wait_until(lambda: all(each["step"] for each in stage.service.workers()), seconds=60)
    stage.pause(True)
    try:
        await person.go("queue")
        await person.page.locator("tbody tr").nth(5).wait_for()
        await expect(person.page.locator(".figures dd").nth(1)).to_have_text(re.compile("[23]"))
        for index in (1, 4):
            await person.page.locator("tbody input").nth(index).check()
        await person.pictures_are_loaded()
    finally:
        stage.pause(False)


async def readme(stage: Stage) -> None:
    """Make the pictures of the README."""
    async with at(stage.url, **DESK) as person:
        await enter(person, stage.people[0])
        await finished(person, stage)
        await person.send("Winter")
        await person.sees_result(2)
        await person.page.locator(".strip .frame").first.click(modifiers=["Shift"])
        await person.pictures_are_loaded()
        save(await person.page.screenshot(), IMAGES / "page.webp", 1360)
    async with at(stage.url, **LOOKS["phone"]) as person:
        await enter(person, stage.people[1])
        await finished(person, stage)
        save(await person.page.screenshot(), IMAGES / "page-phone.webp", 600)
    async with at(stage.url, **DESK) as person:
        await enter(person, stage.operator)
        await queue(person, stage)
        save(await person.page.screenshot(), IMAGES / "page-queue.webp", 1360)


async def shoot_state(person: Person, path: Path, state: str) -> None:
    await person.page.wait_for_timeout(300)
    await person.page.screenshot(path=path.with_name(f"{path.name}-{state}.png"))


async def every_state(stage: Stage, folder: Path) -> None:
    """Make a picture of every state in every look."""
    for picture, prompt in EDITS * 2:
        stage.submit(picture, prompt, stage.operator)
    several = stage.submit("cat", "Watercolour", stage.operator, n=3)
    failed = stage.submit("astronaut", "Make me a sandwich", stage.operator)
    stage.wait_for(failed)
    stage.wait_for(several)
    for name, options in LOOKS.items():
        async with at(stage.url, **options) as person:
            shoot = partial(shoot_state, person, folder / name)
            await shoot("sign-in")
            await enter(person, stage.operator)
            await person.page.locator(".tries").wait_for()
            await shoot("empty")
            await person.give(stage.pictures["coffee"])
            await shoot("composing")
            await finished(person, stage)
            await shoot("done")
            stage.pause(True)
            await person.go("")
            await person.give(stage.pictures["cat"])
            await person.send("Oil painting" if await is_english(person) else "油画")
            await shoot("queued")
            stage.pause(False)
            for state, view in [("several", f"job/{several}"), ("failed", f"job/{failed}")]:
                await person.go(view)
                await person.pictures_are_loaded()
                await shoot(state)
            await person.go("gallery")
            await person.page.locator(".tile").nth(5).wait_for()
            await person.pictures_are_loaded()
            await shoot("gallery")
            await queue(person, stage)
            await shoot("queue")
            wait_until(lambda: not os.listdir(stage.service.spool.incoming), seconds=120)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        try:
            if len(sys.argv) > 1:
                asyncio.run(every_state(stage, Path(sys.argv[1])))
            else:
                asyncio.run(readme(stage))
        finally:
            stage.service.stop_all()


if __name__ == "__main__":
    main()
