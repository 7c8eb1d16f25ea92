"""docs/api.md against the server: all routes, parameters, keys and error codes, both ways."""

import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from i2ii_spool.errors import REGISTER, EngineError, InvalidRequest
from i2ii_spool.images.codec import QUALITY
from i2ii_spool.jobs.offers import Instruction, Offers
from i2ii_spool.jobs.records import Progress
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.app import ROUTES
from i2ii_spool.server.routing import Route
from i2ii_spool.server.upload import FORM_FIELDS
from i2ii_spool.spool.liveness import JobFailure, WorkerState
from tests.support import UNKNOWN_ID
from tests.support.app import Client, Connect, HandWorker, form
from tests.support.receiver import HOOK, new_secret, note_attempt

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()
TOKEN = "a-token-of-an-operator"
FAILURES = (JobFailure(job=UNKNOWN_ID, code="engine_error"),)
FREE_FORM = {"details", "fields", "request"}
"""Objects whose keys depend on the engine, or are those of another table."""


def section(title: str) -> str:
    """The text below a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def column(text: str, heading: str) -> set[str]:
    """The names in the first column of the tables that have this heading."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return set(re.findall(r"^\| `([^`]+)`", "".join(tables), re.MULTILINE))


def keys_of(answer: Any, path: str = "") -> set[str]:
    """The keys of an answer and of what is in it: `workers`, `workers[].pid`."""
    if isinstance(answer, list):
        return set().union(*(keys_of(each, f"{path}[]") for each in answer))
    if not isinstance(answer, dict) or path.rpartition(".")[2] in FREE_FORM:
        return set()
    inner = [keys_of(value, f"{path}.{name}".lstrip(".")) for name, value in answer.items()]
    return {f"{path}.{name}".lstrip(".") for name in answer}.union(*inner)


def title_of(route: Route) -> str:
    """The heading of a route: `GET /status/ID`."""
    path = re.sub(r"{(\w+)}", lambda name: name[1].upper(), route.path)
    return f"{route.method} {path}"


OFFERS = Offers(instructions=(Instruction(en="sepia", zh="棕褐色"),), presets=("fast",))


class Reader:
    """Sends requests and collects the keys of the answers by route."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.keys: dict[str, set[str]] = defaultdict(set)

    async def read(self, method: str, path: str, id: str = "", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = path.replace("ID", id)
        async with self.client.request(method, url, headers=headers, **options) as response:
            answer = await response.json()
            title = "Errors" if "error" in answer and path == "/edit" else f"{method} {path}"
            self.keys[title] |= keys_of(answer)
            return answer


async def test_the_page_has_every_key_that_a_route_answers_and_no_other(
    connect: Connect, worker: HandWorker
) -> None:
    told = {"api_token": TOKEN, "webhook_secrets": new_secret()}
    reader = Reader(await connect(**told))
    await reader.read("GET", "/livez")
    await reader.read("GET", "/health")
    worker.show(WorkerState.READY, mean_job_seconds=2.0, offers=OFFERS)
    reader.client = await connect(**told)  # it has not read the workers before
    await reader.read("GET", "/health")
    ids = [
        (await reader.read("POST", "/edit", data=form(name="me", webhook=HOOK)))["request_id"]
        for _ in range(5)
    ]
    await reader.read("POST", "/edit", data=form(seed="-2"))
    completed, failed, _, running, queued = ids
    await reader.read("GET", "/status/ID", queued)
    await reader.read("GET", "/result/ID", queued)
    worker.finish()
    worker.claim().fail(EngineError("the edit failed"))
    again = datetime(2026, 11, 27, tzinfo=UTC)
    note_attempt(worker.spool, completed, last_answer="503", next_attempt_at=again)
    note_attempt(worker.spool, failed, last_answer="410 Gone", outcome="dropped")
    worker.claim().fail(InvalidRequest("the prompt is wrong", field="prompt"))
    worker.claim().report(Progress(phase="editing", step=1, steps=2, eta_seconds=0.5))
    worker.show(WorkerState.RUNNING, job=running, recent_failures=FAILURES, offers=OFFERS)
    reader.client = await connect(**told)
    assert (await reader.read("GET", "/status/ID", running))["status"] == "running"
    await reader.read("GET", "/result/ID", running)
    await reader.read("DELETE", "/jobs/ID", running)
    await reader.read("DELETE", "/jobs/ID", queued)
    states = [(await reader.read("GET", "/status/ID", id))["status"] for id in ids]
    assert states == ["completed", "failed", "failed", "running", "cancelled"]
    await reader.read("GET", "/jobs")
    await reader.read("GET", "/system/status")
    await reader.read("GET", "/options")
    await reader.read("POST", "/jobs/ID/retry", failed)
    await reader.read("DELETE", "/jobs/ID", completed)

    status = column(section("`GET /status/ID`"), "key")
    of_jobs = reader.keys.pop("GET /jobs")
    assert {key for key in of_jobs if not key.startswith("jobs[]")} == {"jobs", "next"}
    assert {key.removeprefix("jobs[].") for key in of_jobs} - {"jobs", "next"} <= status
    assert reader.keys.pop("GET /result/ID") <= status
    for title, keys in reader.keys.items():
        documented = column(section(title if title == "Errors" else f"`{title}`"), "key")
        assert keys == documented, title
    assert column(section("`GET /jobs`"), "key") == {"jobs", "next"}


def test_the_page_has_every_route() -> None:
    routes = {title_of(route) for route in ROUTES}
    assert set(re.findall(r"^## `(.*)`$", PAGE, re.MULTILINE)) == routes
    assert column(PAGE, "route") == set()
    linked = re.findall(r"^\| \[`(.*?)`\]\(#(.*?)\)", PAGE, re.MULTILINE)
    assert {name for name, _ in linked} == routes
    for name, anchor in linked:
        assert re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-") == anchor


def test_the_page_has_every_field_of_an_edit() -> None:
    assert column(section("`POST /edit`"), "field") == set(FORM_FIELDS)


def test_the_page_has_the_default_of_every_field() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section("`POST /edit`"), re.MULTILINE))
    for name, field in EditRequest.model_fields.items():
        if name != "prompt":
            shown = rows[name].strip("`").replace("empty", "").replace("none", "")
            shown = shown.replace("the model's", "None")
            default = QUALITY if name == "output_compression" else field.default
            assert shown == str(default), name


def test_the_page_has_every_parameter() -> None:
    for route in ROUTES:
        title = f"`{title_of(route)}`"
        assert column(section(title), "parameter") == {
            parameter.name for parameter in route.parameters
        }, title


async def test_the_page_has_every_header_of_a_result(connect: Connect, worker: HandWorker) -> None:
    client = await connect()
    answer = await (await client.post("/edit", data=form())).json()
    worker.finish()
    response = await client.get(answer["result_url"])
    usual = {"Date", "Server", "Content-Length", "X-Content-Type-Options"}
    shown = {name.replace("Etag", "ETag") for name in response.headers} - usual
    assert column(section("`GET /result/ID`"), "header") == shown


def test_every_code_of_the_page_has_the_status_of_the_register() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(rows) > 20
    for status, code in rows:
        assert REGISTER[code].http_status == int(status), code


async def test_every_route_of_one_job_documents_what_it_answers_for_others(
    connect: Connect,
) -> None:
    client = await connect()
    for route in ROUTES:
        if "{id}" in route.path:
            title = f"`{title_of(route)}`"
            for id in ("nonsense", UNKNOWN_ID):
                response = await client.request(route.method, route.path.replace("{id}", id))
                code = (await response.json())["error"]["code"]
                assert f"| {response.status} | `{code}` |" in section(title)
