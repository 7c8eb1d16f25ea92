"""What operators see, and what others do not; signing in."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.http import post
from tests.support.person import Person, at
from tests.support.service import Service, cli, get_json, wait_until


async def test_the_queue_is_in_order_and_many_are_cancelled(service: Service, photo: Path) -> None:
    url = service.serve()
    for instruction in ("first", "second", "third", "fourth"):
        assert post(url, photo.read_bytes(), prompt=instruction).status == 202
    async with at(url) as person:
        await person.go("queue")
        rows = person.page.locator("tbody tr")
        await expect(rows).to_have_count(4)
        assert [await row.locator(".prompt").inner_text() for row in await rows.all()] == [
            "first",
            "second",
            "third",
            "fourth",
        ]
        await person.page.get_by_role("searchbox").fill("ir")
        await expect(rows).to_have_count(2)
        await person.page.get_by_label("Select all").check()
        await person.button("Cancel 2 jobs").click()
        await person.page.get_by_role("searchbox").fill("")
        await expect(rows).to_have_count(2)
        waiting = get_json(f"{url}/jobs?state=incoming")["jobs"]
        assert {job["prompt"] for job in waiting} == {"second", "fourth"}


async def test_each_gpu_has_a_card(service: Service, photo: Path) -> None:
    url = service.serve()
    service.work("0", engine="halts")
    dying = service.work("1")
    post(url, photo.read_bytes(), prompt="no such thing")
    async with at(url) as person:
        await person.go("queue")
        cards = person.page.locator(".gpu")
        await expect(cards).to_have_count(2)
        await expect(person.page.locator(".verdict")).to_contain_text("Healthy")
        for _ in range(4):
            post(url, photo.read_bytes(), prompt="sepia")
        await expect(cards.first).to_contain_text("running")
        await expect(cards.first).to_contain_text("Step")
        await expect(person.page.locator(".figures")).to_contain_text("Free in the spool")
        os.kill(dying.pid, signal.SIGKILL)
        await expect(cards.nth(1)).to_contain_text("gone")


async def test_an_unhealthy_service_says_why(service: Service) -> None:
    async with at(service.serve()) as person:
        await person.go("queue")
        await expect(person.page.locator(".verdict")).to_contain_text("Unhealthy")
        await expect(person.page.locator(".verdict")).to_contain_text("no worker")
        await person.sees("No GPU ready")


@pytest.fixture
def token(service: Service, tmp_path: Path) -> Callable[..., str]:
    """Make a token."""
    service.environment["I2II_TOKENS_FILE"] = str(tmp_path / "tokens")

    def make(name: str, *options: str) -> str:
        return cli(service, "token", "add", name, *options).stdout.split()[-1]

    return make


async def give_token(person: Person, token: str) -> None:
    await person.page.fill("#token", token)
    await person.button("Sign in").click()


async def sign_in(person: Person, token: str) -> None:
    """Give a token that is known, and wait until the page has been loaded with it."""
    async with person.page.expect_event("load"):
        await give_token(person, token)


async def test_a_token_is_asked_for_and_stays_in_the_session(
    service: Service, token: Callable[..., str], photo: Path
) -> None:
    alice = token("alice")
    url = service.serve()
    service.work()
    async with at(url) as person:
        await person.sees(
            "This server asks for a token. Its operator makes one with i2ii token add."
        )
        await give_token(person, "i2ii_wrong")
        await person.sees("This token is not known, or was revoked.")
        await sign_in(person, alice)
        await person.give(photo)
        id = await person.send("sepia")
        await person.sees_result()
        await expect(person.page.get_by_role("link", name="Queue")).to_have_count(0)
        await person.page.reload()
        await person.sees_result()
        other = await person.page.context.new_page()
        await other.goto(f"{url}/#job/{id}")
        await expect(other.locator(".stagebar")).to_contain_text("Result 1")
        assert alice not in await person.page.evaluate("() => JSON.stringify(localStorage)")
        assert [each.url for each in person.requests if alice in each.url] == []
        await person.button("alice: Sign out").click()
        await person.sees("Sign in")
        await expect(other.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_revoked_token_says_so_at_once(service: Service, token: Callable[..., str]) -> None:
    alice = token("alice")
    url = service.serve()
    async with at(url) as person:
        await sign_in(person, alice)
        await expect(person.button("alice: Sign out")).to_be_visible()
        cli(service, "token", "revoke", "alice")
        wait_until(lambda: "tokens read again" in service.read_log())
        await person.page.get_by_role("link", name="Gallery", exact=True).click()
        await person.sees("This token is not known, or was revoked.")


async def test_all_tabs_have_one_token(service: Service, token: Callable[..., str]) -> None:
    alice, bob = token("alice"), token("bob")
    async with at(service.serve()) as person:
        await sign_in(person, alice)
        await expect(person.button("alice: Sign out")).to_be_visible()
        # As in a tab of another session, which is yet to take over the token.
        await person.page.context.add_init_script(
            "BroadcastChannel.prototype.postMessage = () => {}"
        )
        other = await person.page.context.new_page()
        await other.goto(person.url)
        await other.fill("#token", "i2ii_wrong")
        await other.keyboard.press("Enter")
        await expect(other.locator("#bad-token")).not_to_be_empty()
        await expect(person.button("alice: Sign out")).to_be_visible()
        await person.page.evaluate(
            "token => new BroadcastChannel('i2ii.token').postMessage({token, isNew: true})", bob
        )
        await expect(other.get_by_role("button", name="bob: Sign out")).to_be_visible()


async def test_an_operator_sees_whose_each_job_is(
    service: Service, token: Callable[..., str], photo: Path
) -> None:
    alice, root = token("alice"), token("root", "--operator")
    url = service.serve()
    async with at(url) as person:
        await sign_in(person, alice)
        await person.give(photo)
        await person.send("sepia")
    async with at(url) as operator:
        await sign_in(operator, root)
        await operator.go("queue")
        await expect(operator.page.locator("tbody tr")).to_contain_text("alice")
