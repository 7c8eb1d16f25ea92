"""`i2ii bench --report`: the page of a real run, in a real browser, and where it may be written."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import browser
from tests.support.cli import the_error
from tests.support.service import Service, cli, wait_until

if TYPE_CHECKING:
    from playwright.async_api import Page

HOSTILE = '<script>alert(1)</script><img src=http://127.0.0.1/x onerror=alert(2)> & "dragons"'

needs_browser = pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("bench"))
    service.serve()
    service.work("0")
    service.work("1")
    yield service
    service.stop_all()


@pytest.fixture(scope="module")
def good(two_workers: Service) -> Path:
    """The page of eight jobs that succeed."""
    path = two_workers.spool.root.parent / "good.html"
    ran = cli(
        *(two_workers, "bench", "--url", two_workers.url, "-n", "8", "-c", "4", "-p", "invert"),
        *("--json", "--report", str(path)),
    )
    assert json.loads(ran.stdout)["succeeded"] == 8
    assert ran.stderr == f"report: {path}\n"
    return path


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator["Page"]:
    """Open the page as a file; it must not ask, say or pop up anything."""
    heard: list[str] = []
    async with browser.browser() as page:
        page.on("request", lambda request: heard.append(request.url))
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        await page.goto(path.as_uri())
        yield page
    assert [each for each in heard if not each.startswith("data:")] == [path.as_uri()]


@needs_browser
async def test_a_browser_shows_the_run_and_asks_nobody(good: Path) -> None:
    async with opened(good) as page:
        assert await page.locator("h2").all_inner_texts() == [
            *("Jobs per worker", "Submit to result", "Throughput over time"),
            *("Workers", "The run", "Contact sheet"),
        ]
        assert await page.locator(".figures dd").nth(3).inner_text() == "8 of 8"
        assert await page.locator("rect.edit, rect.slow").count() == 8
        lanes = await page.locator(".lanes .who b").all_inner_texts()
        assert lanes == ["queue", "gpu0", "gpu1"]
        jobs = await page.locator("tbody td:nth-child(2)").all_inner_texts()
        assert sum(map(int, jobs)) == 8
        assert await page.locator("img").count() == 4 + 8
        assert await page.evaluate(
            "Promise.all([...document.images].map(image => image.decode()))"
            ".then(() => [...document.images].every(image => image.naturalWidth > 100))"
        )


@needs_browser
async def test_it_follows_the_scheme_and_fits_a_phone(good: Path) -> None:
    async with opened(good) as page:
        colours = set()
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            colours.add(
                await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            )
        assert colours == {"rgb(244, 244, 242)", "rgb(19, 19, 18)"}
        await page.set_viewport_size({"width": 390, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") == 390


@needs_browser
async def test_a_hostile_prompt_is_shown_as_text(two_workers: Service) -> None:
    path = two_workers.spool.root.parent / "hostile.html"
    ran = cli(
        *(two_workers, "bench", "--url", two_workers.url, "-n", "3", "-p", HOSTILE),
        *("--report", str(path)),
        check=False,
    )
    assert ran.returncode == 1
    async with opened(path) as page:
        assert await page.locator(".notice").inner_text() == (
            "No job has completed, so there is no latency and no throughput."
        )
        failure = page.locator(".failures li")
        assert await failure.locator("b").inner_text() == "3 ×"
        assert await failure.locator("code").first.inner_text() == "unknown_instruction"
        assert "no instruction of the classic engine" in await failure.locator("p").inner_text()
        await page.get_by_text(HOSTILE, exact=True).wait_for()
        assert await page.locator("script, img").count() == 0


def test_it_replaces_a_file_whole_with_the_rights_that_the_user_wants(
    two_workers: Service, tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")
    before = path.open()
    cli(
        *(two_workers, "bench", "--url", two_workers.url, "-n", "1", "-p", "invert"),
        *("--report", str(path)),
    )
    with before:
        assert before.read() == "old"  # who reads it is not disturbed
    assert path.read_text().endswith("</html>\n")
    assert [each.name for each in tmp_path.iterdir()] == ["out.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/out.html", "there is no folder"),
        ("folder", "is not a file; name another with --report"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_load(
    service: Service, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    url = service.serve()
    ran = cli(service, "bench", "--url", url, "--report", str(tmp_path / name), check=False)
    # Without a worker the load would have been refused for that, in other words.
    assert reason in the_error(ran)
    assert ran.returncode == 64


def test_ctrl_c_still_writes_the_page(service: Service, tmp_path: Path) -> None:
    url = service.serve()
    service.work(engine="slow")  # 0.5 s a job
    path = tmp_path / "out.html"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "i2ii_spool", "bench", "--url", url, "-n", "500"),
            *("--report", str(path)),
        ],
        env=service.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: len(list(service.spool.done.iterdir())) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Stopped by Ctrl-C: " in path.read_text()
