"""Following a job: its place, its steps, its end; and what dies meanwhile."""

import os
import signal
from pathlib import Path

from playwright.async_api import expect

from tests.support.http import post
from tests.support.person import Person, at
from tests.support.service import Service, get_json, wait_until


async def give_and_send(person: Person, photo: Path, instruction: str) -> str:
    await person.go("")
    await person.give(photo)
    return await person.send(instruction)


def finish(service: Service, instruction: str) -> None:
    """Have a worker whose engine `halts` end the job."""
    service.spool.root.with_name(f"finish {instruction}").touch()


async def test_place_steps_and_end_come_by_themselves(service: Service, photo: Path) -> None:
    url = service.serve()
    async with at(url) as person:
        await give_and_send(person, photo, "first")
        await expect(person.title()).to_contain_text("1st in the queue")
        second = await give_and_send(person, photo, "second")
        await expect(person.title()).to_contain_text("2nd in the queue")
        await expect(person.page).to_have_title("(2) i2ii")
        service.work(engine="halts")
        await expect(person.title()).to_contain_text("1st in the queue")
        finish(service, "first")
        await expect(person.title()).to_contain_text("Step 20 of 50")
        await expect(person.page.locator(".work .num")).to_contain_text("/ 50")
        await expect(person.page.get_by_role("progressbar").first).to_be_visible()
        finish(service, "second")
        await person.sees_result()
        assert person.job() == second
        await expect(person.page).to_have_title("i2ii")


async def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(
    service: Service, photo: Path
) -> None:
    url = service.serve()
    async with at(url) as person:
        await give_and_send(person, photo, "waits")
        await person.button("Cancel", exact=True).click()
        await person.sees("You cancelled this job.")
        await person.button("Try again").click()
        await expect(person.title()).to_contain_text("1st in the queue")
        service.work(engine="halts")
        await expect(person.title()).to_contain_text("Step")
        await person.button("Cancel", exact=True).click()
        await person.sees("You cancelled this job.")
        assert len(os.listdir(service.spool.failed)) == 1


async def test_a_failed_job_says_why_and_what_cures_it(person: Person, photo: Path) -> None:
    failed = await give_and_send(person, photo, "make me a sandwich")
    await person.sees(
        "This engine knows a fixed list of instructions, and found none of them here."
    )
    error = get_json(f"{person.url}/status/{failed}")["error"]
    await person.sees(error["message"])
    await person.sees(error["code"])
    await person.page.locator(".why .chip", has_text="Sepia").first.click()
    await expect(person.page.locator("#prompt")).to_have_value("Sepia")
    await expect(person.page.locator(".tray img")).to_have_count(1)
    await person.page.keyboard.press("Control+Enter")
    await person.sees_result()
    assert person.job() != failed


async def test_a_job_whose_worker_is_killed_goes_on(service: Service, photo: Path) -> None:
    url = service.serve()
    worker = service.work("0", engine="halts")
    async with at(url) as person:
        await give_and_send(person, photo, "sepia")
        await expect(person.title()).to_contain_text("Step")
        os.kill(worker.pid, signal.SIGKILL)
        service.work("1", engine="halts")
        await expect(person.title()).to_contain_text("gpu1")
        finish(service, "sepia")
        await person.sees_result()


async def test_a_server_that_is_away_loses_nothing(service: Service, photo: Path) -> None:
    url = service.serve()
    service.work(engine="halts")
    server = service.processes[0]
    async with at(url) as person:
        running = await give_and_send(person, photo, "runs on")
        await expect(person.title()).to_contain_text("Step")
        server.kill()
        server.wait()
        await person.sees("The server does not answer.")
        await expect(person.title()).to_contain_text("when last heard")
        await person.give(photo)
        await person.page.fill("#prompt", "sent when it is back")
        await person.button("Send when it is back").click()
        finish(service, "runs on")
        wait_until(lambda: (service.spool.done / running).exists())
        service.serve_again()
        await expect(person.page.get_by_text("The server does not answer.")).to_be_hidden()
        await person.page.wait_for_url(lambda url: "#job/" in url and running not in url)
        finish(service, "sent when it is back")
        await person.sees_result()
        await person.sees("sent when it is back")
        jobs = get_json(f"{url}/jobs")["jobs"]
        assert [job["status"] for job in jobs] == ["completed", "completed"]
        await person.go(f"job/{running}")
        await expect(person.title()).to_contain_text("runs on")
        await person.sees_result()


async def test_a_full_queue_sends_by_itself_later(service: Service, photo: Path) -> None:
    url = service.serve(max_queue="1")
    async with at(url) as person:
        await give_and_send(person, photo, "sepia")
        await person.go("")
        await person.give(photo)
        await person.page.fill("#prompt", "invert")
        await person.page.keyboard.press("Control+Enter")
        await expect(person.page.locator(".problems")).to_contain_text("The queue is full")
        assert await person.page.input_value("#prompt") == "invert"


async def test_jobs_from_elsewhere_appear(person: Person, photo: Path) -> None:
    assert post(person.url, photo.read_bytes(), prompt="sepia").status == 202
    await expect(person.page.locator(".rail .job")).to_have_count(1)
    await expect(person.page.locator(".rail .job.completed")).to_have_count(1)


async def test_many_jobs_of_others_leave_the_one_on_the_stage(person: Person, photo: Path) -> None:
    await give_and_send(person, photo, "sepia")
    await person.sees_result()
    await person.page.evaluate(
        """async () => {
            const app = document.querySelector("script").src;
            const { put } = await import(app.replace("app", "jobs"));
            for (let job = 0; job < 1000; job += 1)
                put({request_id: `99991231-000000-000-${job}`, status: "completed"});
        }"""
    )
    await expect(person.page.locator(".rail")).to_contain_text("sepia")
    await person.page.get_by_role("button", name="Jobs").click()
    await person.page.get_by_role("button", name="Details").click()
    await person.sees_result()


async def test_many_tabs_share_one_stream(person: Person, photo: Path) -> None:
    """A browser has six connections to a server."""
    tabs = [await person.page.context.new_page() for _ in range(8)]
    for tab in tabs:
        await tab.goto(person.url)
        await expect(tab.get_by_role("heading", level=1)).to_be_visible()
    await give_and_send(person, photo, "sepia")
    for tab in tabs:
        await expect(tab.locator(".rail .job.completed")).to_have_count(1)
    await person.page.close()  # it has read the stream for all
    assert post(person.url, photo.read_bytes(), prompt="invert").status == 202
    for tab in tabs:
        await expect(tab.locator(".rail .job.completed")).to_have_count(2)


async def test_a_tab_in_the_background_tells_of_the_end(service: Service, photo: Path) -> None:
    url = service.serve()
    async with at(url) as person:
        await give_and_send(person, photo, "sepia")
        plain = await person.page.locator("link[rel=icon]").get_attribute("href")
        await person.page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", {get: () => true});
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        service.work()
        await expect(person.page).to_have_title("✓ i2ii")
        assert plain != await person.page.locator("link[rel=icon]").get_attribute("href")
