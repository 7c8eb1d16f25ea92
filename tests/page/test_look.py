"""Looking at results, and going on from them."""

import asyncio
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import expect

from tests.support import npm
from tests.support.person import Person
from tests.support.service import Service, get_json, wait_until


async def edited(person: Person, photo: Path, instruction: str = "invert") -> str:
    await person.give(photo)
    id = await person.send(instruction)
    await person.sees_result()
    return id


async def test_the_slider_moves_by_keys_and_by_dragging(person: Person, photo: Path) -> None:
    await edited(person, photo)
    slider = person.page.get_by_role("slider", name="Compare")
    await slider.focus()
    for key, value in [("Home", 0), ("End", 100), ("PageDown", 90), ("ArrowLeft", 89)]:
        await slider.press(key)
        await expect(slider).to_have_value(str(value))
        await expect(slider).to_have_attribute(
            "aria-valuetext", f"Original left of {value} percent"
        )
    box = await person.page.locator(".cmp").bounding_box()
    assert box is not None
    await person.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    await person.page.mouse.down()
    await person.page.mouse.up()
    assert 24 <= float(await slider.input_value()) <= 26


async def test_the_original_shows_while_it_is_held(person: Person, photo: Path) -> None:
    await edited(person, photo)
    figure = person.page.locator(".cmp")
    await person.leave_the_sentence()
    await person.page.keyboard.down("o")
    await expect(figure).to_contain_class("held")
    await person.page.keyboard.up("o")
    await expect(figure).not_to_contain_class("held")
    await person.button("Hold for the original").hover()
    await person.page.mouse.down()
    await expect(figure).to_contain_class("held")
    await person.page.mouse.up()
    await expect(figure).not_to_contain_class("held")


async def test_both_pictures_share_zoom_and_place(person: Person, photo: Path) -> None:
    await edited(person, photo)
    await person.button("Side by side").click()
    await person.pictures_are_loaded()
    await person.page.locator(".half").first.hover()
    await person.page.mouse.wheel(0, -300)
    await expect(person.page.locator(".zoom")).to_have_text("115 %")
    transforms = await person.page.evaluate(
        "() => [...document.querySelectorAll('.half img')].map(i => getComputedStyle(i).transform)"
    )
    assert len(set(transforms)) == 1
    assert transforms[0] != "none"
    await person.page.keyboard.press("0")
    await expect(person.page.locator(".zoom")).to_have_text("Fit")


async def test_a_result_is_edited_again_and_the_chain_stays(
    person: Person, service: Service, photo: Path
) -> None:
    first = await edited(person, photo, "invert")
    second = await person.send("mirror")
    await person.sees_result(2)
    picture = Image.open(service.spool.done / second / "result.png").convert("RGB")
    assert picture.getpixel((10, 10)) == (255, 255, 0)  # the mirror of the inverted blue
    await person.open(f"job/{second}")  # as a colleague does
    await person.sees_result(2)
    frames = person.page.locator(".strip .frame")
    await expect(frames).to_have_count(3)
    await frames.nth(0).click(modifiers=["Shift"])
    await expect(person.title()).to_contain_text("Original – Result 2")
    await frames.nth(1).click(button="right")  # what a long press is on a touch screen
    await expect(person.title()).to_contain_text("Result 1 – Result 2")
    await frames.nth(1).click()
    await expect(person.title()).to_contain_text("Original – Result 1")
    assert person.job() == first
    await person.page.keyboard.press("]")
    await expect(person.title()).to_contain_text("Result 1 – Result 2")
    service_jobs = get_json(f"{person.url}/jobs")["jobs"]
    assert [job["request"].get("parent") for job in service_jobs] == [first, None]


async def test_one_of_several_results_is_chosen(person: Person, photo: Path) -> None:
    await person.give(photo)
    await person.button("Settings").click()
    await person.page.fill("#field-n", "3")
    await person.page.fill("#field-seed", "41")
    first = await person.send("invert")
    await expect(person.title()).to_contain_text("3 results, seeds 41 to 43")
    await person.page.get_by_role("link", name="Result 2", exact=True).click()
    await expect(person.title()).to_contain_text("(2/3)")
    await person.page.fill("#field-n", "1")
    second = await person.send("mirror")
    await person.sees_result(2)
    request = get_json(f"{person.url}/status/{second}")["request"]
    assert (request["parent"], request["parent_n"]) == (first, 2)


async def test_settings_are_used_again_with_the_seed(person: Person, photo: Path) -> None:
    await person.give(photo)
    await person.button("Settings").click()
    await person.page.fill("#field-seed", "18446744073709551614")
    await person.page.fill("#field-size", "160x100")
    await person.send("invert")
    await person.sees_result()
    await expect(person.page.locator(".ran")).to_contain_text("160 × 100")
    for field in ("seed", "size"):
        await person.page.fill(f"#field-{field}", "")
    await person.button("Use these settings").click()
    await expect(person.page.locator("#field-seed")).to_have_value("18446744073709551614")
    await expect(person.page.locator("#field-size")).to_have_value("160x100")
    await expect(person.page.locator("#prompt")).to_have_value("invert")


async def test_what_was_asked_is_told_from_what_was_used(person: Person, photo: Path) -> None:
    await edited(person, photo)
    differs = person.page.locator(".ran .diff")
    await expect(differs).to_have_count(1)
    await expect(differs).to_contain_text("320 × 200 (differs from what was asked)")


async def test_a_result_is_downloaded(person: Person, service: Service, photo: Path) -> None:
    id = await edited(person, photo)
    async with person.page.expect_download() as downloading:
        await person.button("Download").click()
    download = await downloading.value
    assert download.suggested_filename == f"{id}.png"
    assert await download.path() is not None
    saved = Path(await download.path()).read_bytes()
    assert saved == (service.spool.done / id / "result.png").read_bytes()


async def copied(person: Person, name: str) -> str:
    await person.button(name, exact=True).click()
    text: str = await person.page.evaluate("() => navigator.clipboard.readText()")
    return text


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
async def test_a_copied_program_makes_the_same_edit(
    person: Person, service: Service, photo: Path, tmp_path: Path, language: str
) -> None:
    await person.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await person.give(photo)
    await person.button("Settings").click()
    await person.page.fill("#field-seed", "7")
    await person.page.fill("#field-size", "160x100")
    first = await person.send('invert it, "quoted", and don\'t $HOME `x`')
    await person.sees_result()
    program = await copied(person, language)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "picture.png").write_bytes(photo.read_bytes())
    commands = {
        "curl": ["sh", "-c", program],
        "Python": [sys.executable, "-c", program],
        "JavaScript": ["node", "--input-type=module", "-e", program],
    }
    if language == "JavaScript" and npm.why_not() is not None:
        pytest.skip(str(npm.why_not()))
    run = partial(subprocess.run, cwd=folder, check=True, timeout=60, capture_output=True)
    await asyncio.to_thread(run, commands[language])
    wait_until(lambda: len(list(service.spool.done.iterdir())) == 2)
    jobs = get_json(f"{person.url}/jobs")["jobs"]
    assert jobs[0]["request"] == jobs[1]["request"]
    assert jobs[0]["prompt"] == jobs[1]["prompt"]
    if language != "curl":
        made = next(folder.glob("*.png" if language == "Python" else f"{first}.png"))
        assert made.exists()


async def test_the_address_of_a_job_is_copied(person: Person, photo: Path) -> None:
    await person.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    id = await edited(person, photo)
    assert await copied(person, "Copy link") == f"{person.url}/#job/{id}"
