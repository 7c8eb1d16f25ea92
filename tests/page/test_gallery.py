"""Coming back: the address of a job, the gallery, earlier instructions."""

import csv
import io
import zipfile
from pathlib import Path

from playwright.async_api import expect

from i2ii_spool.spool.layout import Spool
from tests.support.http import post
from tests.support.jobs import complete_many
from tests.support.person import Person, at
from tests.support.service import Service, get_json, wait_until

MANY = 10_000


def submit(person: Person, photo: Path, *instructions: str) -> list[str]:
    """Have these edits made, one after another."""
    ids = []
    for instruction in instructions:
        answer = post(person.url, photo.read_bytes(), prompt=instruction)
        ids.append(answer.json()["request_id"])
        wait_until(lambda: get_json(f"{person.url}/status/{ids[-1]}?wait=20")["status"] != "queued")
    for id in ids:
        get_json(f"{person.url}/status/{id}?wait=20")
    return ids


async def test_a_job_survives_its_tab(url: str, photo: Path) -> None:
    async with at(url) as person:
        await person.give(photo)
        id = await person.send("sepia")
    async with at(url) as colleague:
        await colleague.open(f"job/{id}")
        await colleague.sees_result()
        await colleague.page.reload()
        await colleague.sees_result()
        assert colleague.job() == id


async def test_an_address_without_a_job_says_so(person: Person) -> None:
    await person.go("job/20260101-000000-000-aaaaaa")
    await person.sees("There is no job with this address, or it is not yours.")
    await person.go("job/..%2f..%2fetc")
    await expect(person.page.get_by_role("alert").first).to_be_visible()


async def test_what_was_typed_survives_a_reload(person: Person) -> None:
    await person.page.fill("#prompt", "a half-written thought")
    await person.page.reload()
    await expect(person.page.locator("#prompt")).to_have_value("a half-written thought")


async def test_jobs_are_filtered_and_searched(person: Person, photo: Path) -> None:
    submit(person, photo, "sepia", "invert", "make me a sandwich")
    await person.go("gallery")
    tiles = person.page.locator(".tile")
    await expect(tiles).to_have_count(3)
    for name, count in [("Done", 2), ("Failed", 1), ("Running now", 0), ("All", 3)]:
        await person.button(name, exact=True).click()
        await expect(tiles).to_have_count(count)
    await person.page.get_by_role("searchbox").fill("SAND")
    await expect(tiles).to_have_count(1)
    await person.page.get_by_role("searchbox").fill("nothing of the kind")
    await person.sees("Nothing matches.")
    await person.button("Clear the search").click()
    await expect(tiles).to_have_count(3)


async def test_favourites_stay_in_this_browser(person: Person, photo: Path) -> None:
    submit(person, photo, "sepia", "invert")
    await person.go("gallery")
    await person.button("Favourite: sepia").click()
    await person.page.reload()
    await person.button("Favourites", exact=True).click()
    await expect(person.page.locator(".tile")).to_have_count(1)
    await expect(person.page.locator(".tile")).to_contain_text("sepia")


async def test_many_are_selected_saved_and_deleted(
    person: Person, service: Service, photo: Path, tmp_path: Path
) -> None:
    kept, *selected = submit(person, photo, "blur", "sepia", "invert", "mirror")
    await person.go("gallery")
    tiles = person.page.locator(".tile")
    await tiles.nth(0).hover()
    await tiles.nth(0).locator(".sel input").check(force=True)
    await tiles.nth(2).locator(".sel input").click(force=True, modifiers=["Shift"])
    await person.sees("3 selected")
    async with person.page.expect_download() as downloading:
        await person.button("Download as zip").click()
    await (await downloading.value).save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("manifest.csv").decode("utf-8-sig"))))
        assert {row["id"] for row in rows} == set(selected)
        for row in rows:
            assert (
                archive.read(row["file"])
                == (service.spool.done / row["id"] / "result.png").read_bytes()
            )
    await person.page.locator(".bulk").get_by_role("button", name="Delete").click()
    await expect(tiles).to_have_count(1)
    await person.button("Undo").click()
    await expect(tiles).to_have_count(4)
    assert len(list(service.spool.done.iterdir())) == 4
    await tiles.nth(1).hover()
    await tiles.nth(1).locator(".sel input").check(force=True)
    await person.page.locator(".bulk").get_by_role("button", name="Delete").click()
    await person.page.close(run_before_unload=True)
    wait_until(lambda: len(list(service.spool.done.iterdir())) == 3)
    assert (service.spool.done / kept).exists()


async def test_failed_jobs_are_tried_again_together(
    person: Person, service: Service, photo: Path
) -> None:
    submit(person, photo, "no such thing", "nor this one")
    before = [(service.spool.failed / id).stat().st_ctime_ns for id in _ids(service.spool)]
    await person.go("gallery")
    await person.page.locator(".tile").first.hover()
    await person.page.keyboard.press("Control+a")
    await person.page.locator(".bulk").get_by_role("button", name="Try again").click()
    wait_until(
        lambda: (
            len(_ids(service.spool)) == 2
            and all(
                (service.spool.failed / id).stat().st_ctime_ns not in before
                for id in _ids(service.spool)
            )
        )
    )


def _ids(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.failed.iterdir())


async def test_ten_thousand_jobs_scroll(service: Service, photo: Path) -> None:
    complete_many(service.spool, photo, MANY)
    url = service.serve()
    async with at(url) as person:
        await person.go("gallery")
        tiles = person.page.locator(".tile")
        await expect(tiles.first).to_be_visible()
        for _ in range(40):
            height = await person.page.evaluate("() => document.body.scrollHeight")
            await person.page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
            await person.page.wait_for_function(
                "before => document.body.scrollHeight > before", arg=height
            )
        assert await tiles.count() < 600, "far from the screen a page of tiles is empty"
        seen = await person.page.locator(".day h2 small").first.inner_text()
        assert int(seen.rstrip("+")) > 2000
        await person.page.evaluate("() => scrollTo(0, 0)")
        await expect(tiles.first).to_be_visible()


async def test_earlier_instructions_come_back(person: Person, photo: Path) -> None:
    for instruction in ("sepia", "invert"):
        await person.go("")
        await person.give(photo)
        await person.send(instruction)
        await person.sees_result()
    await person.page.focus("#prompt")
    await person.page.keyboard.press("ArrowUp")
    await expect(person.page.locator("#prompt")).to_have_value("invert")
    await person.button("Earlier instructions").click()
    entries = person.page.locator(".history .entry")
    await expect(entries).to_have_text(["invert", "sepia"])
    await person.page.locator(".history li").nth(1).get_by_role("button", name="Favourite").click()
    await expect(entries).to_have_text(["sepia", "invert"])
    await entries.first.click()
    await expect(person.page.locator("#prompt")).to_have_value("sepia")
