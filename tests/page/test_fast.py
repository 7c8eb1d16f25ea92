"""What the page loads: little, from one host, and once."""

from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.async_api import expect

from tests.support.http import post
from tests.support.jobs import complete_many
from tests.support.person import Person, at
from tests.support.service import Service, get_json

FIRST_PAINT = 100_000
HUNDRED_THUMBNAILS = 3_000_000


TRANSFERRED = """kind => performance.getEntriesByType("resource")
    .concat(performance.getEntriesByType("navigation"))
    .filter(each => new URL(each.name).pathname.startsWith(kind))
    .map(each => [each.name, each.transferSize])"""


async def transferred(person: Person, kind: str) -> dict[str, int]:
    """How many bytes came over the network, of which addresses; none are of the cache."""
    return dict(await person.page.evaluate(TRANSFERRED, kind))


async def test_the_first_paint_is_small_and_the_second_is_nothing(url: str) -> None:
    async with at(url) as person:
        await expect(person.page.get_by_role("heading", level=1)).to_be_visible()
        first = await transferred(person, "/")
        assert len(first) > 20
        shown_later = [size for name, size in first.items() if "sample-" in name]
        assert sum(first.values()) - sum(shown_later) < FIRST_PAINT
        assert {urlsplit(each.url).netloc for each in person.requests} <= {urlsplit(url).netloc, ""}
        await person.page.reload()
        await expect(person.page.get_by_role("heading", level=1)).to_be_visible()
        assert {
            name: size for name, size in (await transferred(person, "/page/")).items() if size
        } == {}


async def test_a_gallery_of_a_hundred_moves_little(service: Service, tmp_path: Path) -> None:
    Image.effect_noise((1600, 1200), 60).convert("RGB").save(tmp_path / "noise.jpg", quality=90)
    complete_many(service.spool, tmp_path / "noise.jpg", 100)
    url = service.serve()
    async with at(url) as person:
        await person.go("gallery")
        await person.page.evaluate("() => performance.setResourceTimingBufferSize(1000)")
        await expect(person.page.locator(".tile").first).to_be_visible()
        while len(await transferred(person, "/thumbnails/")) < 100:
            await person.page.mouse.wheel(0, 600)
            await person.pictures_are_loaded()
        assert sum((await transferred(person, "/thumbnails/")).values()) < HUNDRED_THUMBNAILS


async def test_the_page_is_answered_without_the_other_hosts_scripts(person: Person) -> None:
    await person.page.evaluate(
        """() => {
            window.reports = [];
            document.addEventListener("securitypolicyviolation", each => reports.push(each));
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
        }"""
    )
    assert await person.page.evaluate("() => window.ran") is None
    assert await person.page.evaluate("() => reports.length") == 1
    person.errors.clear()
    assert post(person.url, b"x").status == 400
    assert get_json(f"{person.url}/livez")["status"] == "alive"
