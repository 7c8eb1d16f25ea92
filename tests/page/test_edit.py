"""Giving pictures and an instruction."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import expect

from tests.support.http import post
from tests.support.person import Person, at
from tests.support.service import Service, get_json, get_text

GIVE = """([kind, name, type, data, selector]) => {
    const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true})
        : new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true});
    document.querySelector(selector).dispatchEvent(event);
}"""


async def bring(
    person: Person, kind: str, file: Path, *, name: str = "", onto: str = "body"
) -> None:
    """Drop or paste a file."""
    data = base64.b64encode(file.read_bytes()).decode()
    media_type = {"png": "image/png", "pdf": "application/pdf"}.get(file.suffix[1:], "")
    await person.page.evaluate(GIVE, [kind, name or file.name, media_type, data, onto])


def tray(person: Person) -> Any:
    return person.page.locator(".tray img")


async def test_a_picture_is_chosen_and_edited(
    person: Person, service: Service, photo: Path
) -> None:
    await expect(person.page.get_by_role("heading", level=1)).to_contain_text("Drop a picture")
    await person.give(photo)
    await expect(person.title()).to_contain_text("photo.png · 320 × 200")
    id = await person.send("invert")
    await person.sees_result()
    result = Image.open(service.spool.done / id / "result.png")
    assert result.getpixel((10, 10)) == (0, 255, 255)


@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_a_picture_is_dropped_or_pasted_anywhere(
    person: Person, photo: Path, kind: str
) -> None:
    await person.go("gallery")
    await bring(person, kind, photo)
    await expect(person.title()).to_contain_text("photo.png")
    await expect(tray(person)).to_have_count(1)
    await bring(person, kind, photo, name="second.png")
    await expect(tray(person)).to_have_count(2)


async def test_a_result_is_dragged_into_the_sentence(service: Service, photo: Path) -> None:
    service.work(engine="quick")
    async with at(service.serve()) as person:
        await person.give(photo)
        first = await person.send("any")
        await person.sees_result()
        await person.button("One picture").click()
        await person.page.drag_and_drop(".pic.alone img", ".composer")
        await expect(tray(person)).to_have_count(2)  # what is on the stage, and what was dropped
        status = get_json(f"{person.url}/status/{await person.send('another')}")
        assert status["inputs"] == ["input.png", "input-2.png"]
        assert status["request"]["parent"] == first


async def test_several_pictures_become_one_edit_or_one_each(
    service: Service, photo: Path, other_photo: Path
) -> None:
    service.work(engine="quick")
    async with at(service.serve()) as person:
        await person.give(photo, other_photo)
        await expect(person.page.get_by_text("2 pictures")).to_be_visible()
        await person.send("together")
        await person.sees_result()
        await person.go("")
        await person.give(photo, other_photo)
        await person.page.get_by_label("Each on its own").check()
        await expect(person.button("Send 2 edits")).to_be_visible()
        await person.send("apart")
        await person.sees_result()
        jobs = get_json(f"{person.url}/jobs")["jobs"]
        assert [len(job["inputs"]) for job in jobs] == [1, 1, 2]


async def test_a_model_of_one_picture_edits_each_on_its_own(
    person: Person, photo: Path, other_photo: Path
) -> None:
    await person.give(photo, other_photo)
    await person.sees("The model takes one picture.")
    await expect(person.page.get_by_label("One edit from both")).to_be_disabled()
    await expect(person.button("Send 2 edits")).to_be_visible()


async def test_chips_are_what_the_engine_knows(url: str) -> None:
    known = get_json(f"{url}/options")["engines"][0]["instructions"]
    assert len(known) > 40
    for locale, language in (("en-GB", "en"), ("zh-CN", "zh")):
        async with at(url, locale=locale) as person:
            chips = person.page.locator(".chips .chip")
            await expect(chips).to_have_count(len(known))
            shown = [text.lower() for text in await chips.all_inner_texts()]
            assert shown == [each[language] for each in known]
            await chips.nth(0).click()
            await chips.nth(1).click()
            written = (await person.page.input_value("#prompt")).lower()
            assert all(each[language] in written for each in known[:2])


WRONG = [
    ("num_inference_steps", "7"),
    ("num_inference_steps", "101"),
    ("num_inference_steps", "many"),
    ("true_cfg_scale", "0.5"),
    ("true_cfg_scale", "10.5"),
    ("seed", "-2"),
    ("seed", "18446744073709551616"),
    ("seed", "1.5"),
    ("n", "0"),
    ("n", "9"),
    ("size", "9x9"),
    ("size", "huge"),
    ("output_compression", "101"),
    ("output_compression", "50"),
    ("name", "x" * 201),
    ("negative_prompt", "x" * 4001),
]


async def test_wrong_values_are_refused_before_sending_in_the_words_of_the_server(
    person: Person, photo: Path
) -> None:
    await person.give(photo)
    await person.page.fill("#prompt", "sepia")
    await person.button("Settings").click()
    for field, value in WRONG:
        await person.page.fill(f"#field-{field}", value)
        error = person.page.locator(f"#error-{field}")
        refusal = post(person.url, photo.read_bytes(), **{field: value})
        assert refusal.status == 400
        told = refusal.json()["error"]["message"]
        await expect(error).to_have_text(told)
        await person.page.keyboard.press("Control+Enter")
        await expect(error).to_have_text(told)
        await person.page.fill(f"#field-{field}", "")
        await expect(error).to_be_hidden()
    assert get_json(f"{person.url}/jobs")["jobs"] == []
    assert not [each for each in person.requests if each.url.endswith("/edit")]


async def test_settings_reach_the_job(person: Person, photo: Path) -> None:
    await person.give(photo)
    await person.button("Settings").click()
    asked = {"seed": "18446744073709551615", "size": "input", "name": "a wedding", "n": "1"}
    for field, value in asked.items():
        await person.page.fill(f"#field-{field}", value)
    await person.page.select_option("#field-output_format", "webp")
    id = await person.send("sepia")
    await person.sees_result()
    text = get_text(f"{person.url}/status/{id}")
    assert '"seed": 18446744073709551615' in text
    assert get_json(f"{person.url}/status/{id}")["outputs"] == ["result.webp"]
    await expect(person.page.locator(".ran")).to_contain_text("18446744073709551615")


async def test_what_cannot_be_sent_is_refused_with_its_cure(
    service: Service, photo: Path, tmp_path: Path
) -> None:
    service.work()
    url = service.serve(max_megapixels="0.06", max_upload_mib="1")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.7")
    Image.effect_noise((1000, 1100), 90).save(tmp_path / "large.png")
    async with at(url) as person:
        problem = person.page.locator(".problems")
        await bring(person, "drop", tmp_path / "notes.pdf")
        await expect(problem).to_have_text("notes.pdf is not a picture.")
        await person.page.keyboard.press("Control+Enter")
        await expect(problem).to_have_text("Add a picture first.")
        await person.give(photo)  # 64 000 pixels
        await expect(problem).to_contain_text("photo.png has 0.064 megapixels; 0.06 are the limit.")
        await person.button("Shrink it here").click()
        await expect(problem).to_be_empty()
        await person.page.keyboard.press("Control+Enter")
        await expect(problem).to_have_text("Say what should change.")
        await person.send("invert")
        await person.sees_result()


async def test_only_what_is_painted_is_edited(
    person: Person, service: Service, photo: Path
) -> None:
    await person.give(photo)
    await person.button("Paint where to edit").click()
    box = await person.page.locator("canvas").bounding_box()
    assert box is not None

    async def stroke(from_: float, to: float) -> None:
        await person.page.mouse.move(box["x"] + box["width"] * from_, box["y"] + box["height"] / 2)
        await person.page.mouse.down()
        await person.page.mouse.move(
            box["x"] + box["width"] * to, box["y"] + box["height"] / 2, steps=5
        )
        await person.page.mouse.up()

    await stroke(0.1, 0.4)
    await stroke(0.6, 0.9)
    await person.button("Undo").click()
    id = await person.send("invert")
    await person.sees_result()
    result = Image.open(service.spool.done / id / "result.png").convert("RGB")
    assert result.getpixel((80, 100)) == (0, 255, 255)  # painted
    assert result.getpixel((80, 10)) == (255, 0, 0)
    assert result.getpixel((240, 100)) == (0, 0, 255)  # the stroke that was taken back


async def test_a_picture_that_browsers_do_not_show_is_edited(
    person: Person, photo: Path, tmp_path: Path
) -> None:
    with Image.open(photo) as picture:
        picture.save(tmp_path / "scan.tif")
    await person.give(tmp_path / "scan.tif")
    await expect(person.page.locator(".tray .unshown")).to_have_text("TIF")
    await person.send("sepia")
    await person.sees_result()
    original = person.page.locator(".cmp .clip img")
    assert "/thumbnails/" in str(await original.get_attribute("data-path"))


async def test_an_empty_page_offers_pictures_to_try(person: Person) -> None:
    await person.page.locator(".tries button").first.click()
    await expect(person.page.locator("#prompt")).to_have_value("Watercolour")
    await person.page.keyboard.press("Control+Enter")
    await person.sees_result()


async def test_the_server_refuses_what_the_browser_cannot_know(
    person: Person, tmp_path: Path
) -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (64, 64)).save(file, "PNG")
        (tmp_path / "cut.png").write_bytes(file.getvalue()[:-30])
    await person.give(tmp_path / "cut.png")
    await person.page.fill("#prompt", "sepia")
    await person.page.keyboard.press("Control+Enter")
    await expect(person.page.locator(".problems")).to_contain_text("truncated")
    assert await person.page.input_value("#prompt") == "sepia"
