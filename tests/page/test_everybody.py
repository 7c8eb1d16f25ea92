"""For everybody: screen readers, keyboards, screens of any size, both languages; hostile text."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from i2ii_spool.server.assets import FOLDER
from tests.support import npm
from tests.support.http import post
from tests.support.person import PHONE, Person, at
from tests.support.service import Service, get_json

AXE = "node_modules/axe-core/axe.min.js"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "chinese": {"locale": "zh-CN"},
}
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}\u202e'


@pytest.fixture
def axe(request: pytest.FixtureRequest) -> str:
    """The script of axe-core."""
    if npm.why_not() is not None:
        pytest.skip(str(npm.why_not()))
    folder = npm.installed(request.config.cache.mkdir("npm"))  # type: ignore[union-attr]
    return (folder / AXE).read_text()


async def violations(person: Person, axe: str) -> list[str]:
    """What axe-core finds wrong with what the page shows."""
    await person.page.evaluate(axe)
    found = await person.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("look", LOOKS)
async def test_axe_finds_nothing(
    url: str, service: Service, photo: Path, other_photo: Path, axe: str, look: str
) -> None:
    done = post(url, photo.read_bytes(), prompt="sepia").json()["request_id"]
    several = post(url, photo.read_bytes(), prompt="invert", n="3").json()["request_id"]
    failed = post(url, photo.read_bytes(), prompt="a sandwich").json()["request_id"]
    for id in (done, several, failed):
        get_json(f"{url}/status/{id}?wait=20")
    async with at(url, **LOOKS[look]) as person:
        found = {"empty": await violations(person, axe)}
        await person.give(photo, other_photo)
        await person.page.locator("[aria-controls=settings]").click()
        await person.page.fill("#field-n", "9")
        found["composing"] = await violations(person, axe)
        await person.page.fill("#field-n", "")
        for view in (f"job/{done}", f"job/{several}", f"job/{failed}", "gallery", "queue"):
            await person.open(view)
            await person.pictures_are_loaded()
            await expect(person.page.locator(".health")).to_contain_text(re.compile(r"\d"))
            found[view] = await violations(person, axe)
        for process in service.processes:
            process.kill()
        await expect(person.page.get_by_role("alert").first).to_be_visible()
        found["offline"] = await violations(person, axe)
        assert {view: those for view, those in found.items() if those} == {}


async def test_axe_finds_nothing_at_the_sign_in(service: Service, axe: str) -> None:
    url = service.serve(api_token="a-token-of-an-operator")
    for options in LOOKS.values():
        async with at(url, **options) as person:
            assert await violations(person, axe) == []


@pytest.mark.parametrize("width", [320, 390, 680, 800, 1099, 1100, 1440, 1920, 3840])
async def test_nothing_is_cut_off_at_any_width(url: str, photo: Path, width: int) -> None:
    done = post(url, photo.read_bytes(), prompt="sepia").json()["request_id"]
    get_json(f"{url}/status/{done}?wait=20")
    async with at(url, viewport={"width": width, "height": max(425, width * 9 // 16)}) as person:
        for view in ("", f"job/{done}", "gallery", "queue"):
            await person.go(view)
            await person.pictures_are_loaded()
            wide = await person.page.evaluate(
                "() => document.documentElement.scrollWidth - innerWidth"
            )
            assert wide <= 0, view
            if view.startswith("job/"):
                box = await person.page.locator(".pic").first.bounding_box()
                assert box is not None
                assert box["width"] > width * 0.25


async def test_an_edit_needs_no_mouse(person: Person, photo: Path) -> None:
    keys = person.page.keyboard
    await keys.press("Tab")
    await expect(person.page.locator(":focus")).to_have_text("Skip to the instruction")
    await keys.press("Enter")
    await expect(person.page.locator("#prompt")).to_be_focused()
    await person.give(photo)
    await keys.type("sepia")
    await keys.press("Control+Enter")
    await person.sees_result()
    await person.leave_the_sentence()
    for key, view in [("g", "gallery"), ("q", "queue"), ("e", "")]:
        if view:
            await keys.press("g")
            await keys.press(key)
            await expect(person.page.locator("#app")).to_have_attribute("data-view", view)
    await keys.press("g")
    await keys.press("g")
    await expect(person.page.locator(".tile")).to_have_count(1)
    await keys.press("ArrowRight")
    await expect(person.page.locator(".tile a.shot").first).to_be_focused()
    await keys.press("Space")
    await person.sees("1 selected")
    await keys.press("Escape")
    await keys.press("Enter")
    await person.sees_result()
    await keys.press("f")
    await expect(person.page.locator("[data-key=star]")).to_have_attribute("aria-pressed", "true")
    await keys.press("?")
    await expect(person.page.get_by_role("dialog", name="Keys")).to_be_visible()
    await keys.press("Escape")


async def test_the_end_is_said(person: Person, photo: Path) -> None:
    await person.give(photo)
    await person.send("sepia")
    await person.sees_result()
    await expect(person.page.locator("#say")).to_have_text("Done")


async def test_the_language_is_the_browsers_until_it_is_chosen(url: str) -> None:
    async with at(url, locale="zh-CN") as person:
        await person.sees("选择图片")
        assert await person.page.evaluate("() => document.documentElement.lang") == "zh-Hans"
        await person.button("English").click()
        await person.sees("Choose pictures")
        await person.page.reload()
        await person.sees("Choose pictures")


async def test_both_languages_are_complete(url: str) -> None:
    keys = """async () => {
        const { W } = await import(document.querySelector("script").src.replace("app", "words"));
        const names = (value, path) => typeof value === "object" && !Array.isArray(value)
            ? Object.entries(value).flatMap(([key, each]) => names(each, `${path}.${key}`))
            : [path];
        return names(W, "").sort();
    }"""
    found = []
    for locale in ("en-GB", "zh-CN"):
        async with at(url, locale=locale) as person:
            found.append(await person.page.evaluate(keys))
    assert found[0] == found[1]
    assert len(found[0]) > 200


def test_no_word_of_the_page_stands_outside_of_the_list() -> None:
    """A text in a script is a class, a name or a symbol: words with a capital are in `words.js`."""
    shown = re.compile(r'h\("[^"]+", \{[^}]*\}, "([^"]+)"\)')
    for script in FOLDER.iterdir():
        if script.name.endswith(".js") and script.name != "words.js":
            assert [
                text for text in shown.findall(script.read_text()) if text not in ("i2ii", "0")
            ] == []


@pytest.fixture
async def alerts(person: Person) -> AsyncIterator[list[str]]:
    """The dialogs that scripts of others have opened."""
    opened: list[str] = []
    person.page.on("dialog", lambda dialog: opened.append(dialog.message))
    yield opened
    assert opened == []


@pytest.mark.usefixtures("alerts")
async def test_text_of_jobs_is_only_ever_text(person: Person, photo: Path) -> None:
    answer = post(person.url, photo.read_bytes(), prompt=f"sepia {HOSTILE}", name=HOSTILE[:60])
    done = answer.json()["request_id"]
    failed = post(person.url, photo.read_bytes(), prompt=HOSTILE).json()["request_id"]
    for id in (done, failed):
        get_json(f"{person.url}/status/{id}?wait=20")
    for view in (f"job/{done}", f"job/{failed}", "gallery", "queue", f"job/{HOSTILE}"):
        await person.open(view)
        await person.pictures_are_loaded()
        assert (
            await person.page.locator("main script, main img[src=x], main img[onerror]").count()
            == 0
        )
    await person.open(f"job/{done}")
    await expect(person.title()).to_contain_text("<script>alert(2)</script>")
