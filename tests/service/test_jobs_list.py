"""GET /jobs: order, pages, filters and damaged jobs."""

from collections.abc import Callable
from typing import Any

import pytest

from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from tests.support.app import Client, Connect, HandWorker, check_error, get
from tests.support.jobs import SubmitJob


async def test_the_list_shows_every_state_newest_first(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    done, failed, running, cancelled, queued = [submit_job() for _ in range(5)]
    worker.finish()
    worker.fail()
    worker.claim()
    actions.cancel(spool, cancelled)
    listed = await get(client, "/jobs")
    assert listed["next"] is None
    assert [(job["request_id"], job["status"]) for job in listed["jobs"]] == [
        (queued, "queued"),
        (cancelled, "cancelled"),
        (running, "running"),
        (failed, "failed"),
        (done, "completed"),
    ]
    for state, ids in [
        ("incoming", [queued]),
        ("running", [running]),
        ("done", [done]),
        ("failed", [cancelled, failed]),
    ]:
        of_state = await get(client, f"/jobs?state={state}")
        assert [job["request_id"] for job in of_state["jobs"]] == ids, state


async def test_an_entry_of_the_list_is_what_its_status_says(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job(prompt="做旧", name="first"), submit_job(), submit_job()]
    worker.finish()
    listed = await get(client, "/jobs")
    assert listed["jobs"] == [await get(client, f"/status/{id}") for id in reversed(ids)]


async def test_the_pages_of_the_list_are_the_list(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(10)]
    for end in (worker.finish, worker.fail, worker.claim, worker.finish):
        end()
    assert await _pages(client, limit=3) == sorted(ids, reverse=True)
    assert await _pages(client, limit=5) == sorted(ids, reverse=True)
    assert await _pages(client, limit=4, state="incoming") == sorted(ids[4:], reverse=True)


async def test_jobs_that_arrive_between_two_pages_repeat_nothing(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(7)]
    assert await _pages(client, limit=2, between=submit_job) == sorted(ids, reverse=True)


async def _pages(
    client: Client,
    *,
    limit: int,
    state: str | None = None,
    between: Callable[[], Any] = lambda: None,
) -> list[str]:
    """Read the list page by page, with an action between two; return the ids in it."""
    query = f"/jobs?limit={limit}" + (f"&state={state}" if state else "")
    ids: list[str] = []
    page = await get(client, query)
    while True:
        assert len(page["jobs"]) <= limit
        ids += [job["request_id"] for job in page["jobs"]]
        if page["next"] is None:
            return ids
        between()
        page = await get(client, f"{query}&after={page['next']}")


async def test_a_damaged_job_does_not_hide_the_others(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    damaged, good = submit_job(), submit_job()
    worker.finish()
    worker.finish()
    (spool.done / damaged / "result.json").write_text("{")
    assert good in [job["request_id"] for job in (await get(client, "/jobs"))["jobs"]]


async def test_an_empty_spool_has_an_empty_list(connect: Connect) -> None:
    assert await get(await connect(), "/jobs") == {"jobs": [], "next": None}


@pytest.mark.parametrize(
    ("parameter", "value", "limits"),
    [
        ("state", "queue", ["incoming", "running", "done", "failed"]),
        ("state", "../done", ["incoming"]),
        ("limit", "0", ["1", "1000"]),
        ("limit", "1001", ["1", "1000"]),
        ("limit", "2.5", ["1", "1000"]),
        ("limit", "all", ["1", "1000"]),
        ("after", "nonsense", ["neither the id of a job"]),
        ("page", "2", ["state", "limit", "after"]),
    ],
)
async def test_a_bad_parameter_of_the_list_is_refused(
    connect: Connect, parameter: str, value: str, limits: list[str]
) -> None:
    client = await connect()
    response = await client.get("/jobs", params={parameter: value})
    message = await check_error(response, 400, "invalid_request", parameter)
    assert all(limit in message for limit in limits), message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SEPIA", [0]),
        ("水彩", [1]),
        ("caf\u00e9", [2]),
        ("cafe\u0301", [2]),
        ("STRASSE", [3]),
        ("wedding", [4]),
        ("Wedding 042", [4]),
        ("wedding-042", [4]),
        ("", [0, 1, 2, 3, 4]),
        ("nothing of the kind", []),
    ],
)
async def test_jobs_are_found_by_their_text(
    connect: Connect, submit_job: SubmitJob, text: str, found: list[int]
) -> None:
    client = await connect()
    prompts = ("Sepia", "水彩画", "a Cafe\u0301", "Straße")
    ids = [submit_job(prompt=prompt) for prompt in prompts]
    ids.append(submit_job(prompt="x", name="Wedding 042"))
    response = await client.get("/jobs", params={"text": text})
    shown = [job["request_id"] for job in (await response.json())["jobs"]]
    assert sorted(shown) == [ids[index] for index in found]


async def test_a_job_is_found_by_its_id(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(2)]
    shown = (await get(client, f"/jobs?text={ids[0][-6:]}"))["jobs"]
    assert [job["request_id"] for job in shown] == ids[:1]


async def test_a_search_looks_through_so_many_jobs_and_goes_on(
    connect: Connect, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2ii_spool.server.routes.jobs.MAX_LISTED", 3)
    client = await connect()
    wanted = submit_job(prompt="wanted")
    for _ in range(4):
        submit_job()
    second = submit_job(prompt="wanted, too")
    first = await get(client, "/jobs?text=wanted&limit=1")
    assert [job["request_id"] for job in first["jobs"]] == [second]
    later = await get(client, f"/jobs?text=wanted&after={first['next']}")
    assert later["jobs"] == []
    last = await get(client, f"/jobs?text=wanted&after={later['next']}")
    assert [job["request_id"] for job in last["jobs"]] == [wanted]
    assert last["next"] is None
    assert (await get(client, "/jobs?text=wanted&state=done"))["jobs"] == []


async def test_a_long_text_is_refused(connect: Connect) -> None:
    response = await (await connect()).get("/jobs", params={"text": "x" * 201})
    assert "at most 200" in await check_error(response, 400, "invalid_request", "text")
