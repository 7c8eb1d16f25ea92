"""The description of the API: it is valid, has every route, and says what the server does."""

import asyncio
import gzip
import json
import os
import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientResponse
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from i2ii_spool.errors import REGISTER, EngineError, InvalidRequest
from i2ii_spool.jobs.offers import Instruction, Offers
from i2ii_spool.jobs.records import Progress
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.app import ROUTES
from i2ii_spool.server.auth.middleware import PUBLIC_PATHS
from i2ii_spool.server.errors import error_response
from i2ii_spool.server.openapi import describe, errors_of
from i2ii_spool.server.routing import Route
from i2ii_spool.spool.liveness import JobFailure, WorkerState
from tests.support import UNKNOWN_ID, filled
from tests.support.app import Client, Connect, HandWorker, form, get
from tests.support.receiver import HOOK, new_secret, note_attempt
from tests.support.service import wait_until

TOKEN = "a-token-of-an-operator"
FAILURES = (JobFailure(job=UNKNOWN_ID, code="engine_error"),)
EACH_ROUTE = pytest.mark.parametrize(
    "route", ROUTES, ids=lambda route: f"{route.method} {route.path}"
)


@pytest.fixture
async def described(connect: Connect) -> Any:
    return await get(await connect(), "/openapi.json")


def operation_of(described: Any, route: Route) -> Any:
    return described["paths"][route.path][route.method.lower()]


def operations(described: Any) -> list[Any]:
    return [each for of_path in described["paths"].values() for each in of_path.values()]


# --- the document ---------------------------------------------------------------------------------


async def test_it_is_openapi(described: Any) -> None:
    assert described["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(described).iter_errors()] == []


async def test_it_has_every_route_and_no_other(described: Any) -> None:
    listed = {
        (method.upper(), path) for path, of_path in described["paths"].items() for method in of_path
    }
    assert listed == {(route.method, route.path) for route in ROUTES}
    names = [each["operationId"] for each in operations(described)]
    assert len(set(names)) == len(names)


@EACH_ROUTE
async def test_every_route_says_what_it_takes_and_answers(described: Any, route: Route) -> None:
    operation = operation_of(described, route)
    assert re.fullmatch(r"[A-Z][^.\n]{5,90}", operation["summary"]), operation["summary"]
    assert operation["tags"][0]
    named = {
        where: {each["name"] for each in operation["parameters"] if each["in"] == where}
        for where in ("path", "query", "header")
    }
    assert named["path"] == set(re.findall(r"{(\w+)}", route.path))
    assert named["query"] == {each.name for each in route.parameters}
    assert named["header"] == {each.name for each in route.headers}
    assert ("requestBody" in operation) == route.takes_body
    if route.form_fields:
        schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema["properties"].keys() == set(route.form_fields)
        assert schema["required"] == ["image", "prompt"]
    assert [status for status in operation["responses"] if status < "400"]
    for status, answer in operation["responses"].items():
        assert ("content" in answer) == (status not in ("204", "304"))


async def test_the_fields_of_a_form_have_the_limits_of_the_model(described: Any) -> None:
    body = described["paths"]["/edit"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = body["schema"]["properties"]
    assert (fields["prompt"]["minLength"], fields["prompt"]["maxLength"]) == (1, 4000)
    assert fields["output_format"]["enum"] == ["png", "jpeg", "webp"]
    assert (fields["n"]["minimum"], fields["n"]["maximum"], fields["n"]["default"]) == (1, 4, 1)
    assert fields["image"]["items"]["format"] == "binary"
    for name, field in EditRequest.model_fields.items():
        assert fields[name]["description"] == field.description
        assert "null" not in json.dumps(fields[name])
    body = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["properties"]["seed"]["default"] == -1


async def test_every_schema_is_used(described: Any) -> None:
    text = json.dumps(described)
    for name in described["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


async def test_the_codes_are_those_of_the_register(described: Any) -> None:
    for operation in operations(described):
        for status, answer in operation["responses"].items():
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            for shape in schema.get("anyOf", [schema]):
                codes = shape.get("properties", {}).get("error", {}).get("properties", {})
                for code in codes.get("code", {}).get("enum", ()):
                    assert REGISTER[code].http_status == int(status), code


@EACH_ROUTE
def test_an_error_is_described_with_its_status_and_headers(route: Route) -> None:
    operation = operation_of(describe(ROUTES, needs_token=False), route)
    for kind in errors_of(route):
        answer = error_response(kind("it is wrong"))
        shown = operation["responses"][str(answer.status)]
        assert f"`{kind.code}`" in shown["description"]
        told = set(answer.headers) - {"Content-Type", "Connection", "X-Should-Retry", "Allow"}
        assert told <= shown["headers"].keys(), kind


async def test_a_token_is_asked_for_where_the_server_does(connect: Connect) -> None:
    schemes: dict[str, Any] = {}
    for needs_token in (False, True):
        client = await connect(**({"api_token": TOKEN} if needs_token else {}))
        document = await get(client, "/openapi.json")
        schemes = document["components"]["securitySchemes"]
        for route in ROUTES:
            security = operation_of(document, route)["security"]
            path = filled(route.path)
            response = await client.request(route.method, path)
            assert (response.status == 401) == (security != [] and {} not in security)
            assert (security == []) == (route.path in PUBLIC_PATHS)
    assert schemes["token"] == {**schemes["token"], "type": "http", "scheme": "bearer"}
    header = schemes["apiKey"]["name"]
    assert (await client.get("/jobs", headers={header: TOKEN})).status == 200


# --- what the server does -------------------------------------------------------------------------


class Observer:
    """Sends requests and checks each answer against the description."""

    def __init__(self, client: Client, described: Any) -> None:
        self.client = client
        self.described = described
        self.seen: dict[str, set[str]] = defaultdict(set)
        """The statuses of each route."""
        self.keys: dict[str, set[str]] = defaultdict(set)
        """The keys of each schema that were seen."""

    async def ask(self, method: str, path: str, id: str = "", **options: Any) -> ClientResponse:
        url = options.pop("url", filled(path, id))
        headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
        response = await self.client.request(method, url, headers=headers, **options)
        route = path.partition("?")[0]
        answers = self.described["paths"][route][method.lower()]["responses"]
        assert str(response.status) in answers, (route, response.status)
        self.seen[f"{method} {route}"].add(str(response.status))
        answer = answers[str(response.status)]
        for name, header in answer["headers"].items():
            assert name in response.headers or not header.get("required", False), name
        if response.content_type == "text/event-stream":  # it may have no end
            return response
        body = await response.read()
        if "content" not in answer:
            assert not body
            return response
        shown = answer["content"][response.content_type]
        if response.content_type == "application/json" and "schema" in shown:
            self.check(json.loads(body), shown["schema"])
        return response

    def check(self, answer: Any, schema: Any) -> None:
        whole = {**schema, "components": self.described["components"]}
        Draft202012Validator(whole).validate(answer)
        self._see(answer, schema)

    def _see(self, answer: Any, schema: Any) -> None:
        """Collect the keys by schema; each must be described."""
        for choice in schema.get("anyOf", [schema]):
            whole = {**choice, "components": self.described["components"]}
            if "$ref" in choice and Draft202012Validator(whole).is_valid(answer):
                name = choice["$ref"].rpartition("/")[2]
                fields = self.described["components"]["schemas"][name].get("properties", {})
                if isinstance(answer, dict):
                    assert answer.keys() <= fields.keys(), name
                    self.keys[name] |= answer.keys()
                    for key, value in answer.items():
                        self._see(value, fields[key])
        if isinstance(answer, list):
            for each in answer:
                self._see(each, schema["items"])


async def test_every_answer_is_as_described_and_every_described_key_is_real(
    connect: Connect, worker: HandWorker
) -> None:
    told = {"api_token": TOKEN, "webhook_secrets": new_secret()}
    client = await connect(**told)
    observer = Observer(client, await get(client, "/openapi.json"))
    ask = observer.ask
    await ask("GET", "/health")
    offers = Offers(instructions=(Instruction(en="sepia", zh="棕褐色"),), presets=("fast",))
    worker.show(WorkerState.READY, mean_job_seconds=2.0, offers=offers)
    observer.client = await connect(**told)  # it has not read the workers before
    await ask("GET", "/health")
    await ask("GET", "/options")
    pages = ("/docs", "/docs/rapidoc.js", "/openapi.json")
    for path in ("/livez", "/metrics", *pages, "/v1/models"):
        await ask("GET", path)
    page = await ask("GET", "/")
    await ask("GET", "/", headers={"If-None-Match": page.headers["ETag"]})
    for url in re.findall(r'"(/page/[^"]*)"', await page.text()):
        assert (await ask("GET", "/page/{digest}/{name}", url=url)).status == 200
    submitted = [await ask("POST", "/edit", data=form(name="me", webhook=HOOK)) for _ in range(5)]
    ids = [(await each.json())["request_id"] for each in submitted]
    completed, failed, refused, running, queued = ids
    await ask("POST", "/edit", data=form(seed="-2"))
    await ask("POST", "/edit", data=form(b"no picture"))
    await ask("POST", "/edit", data={"prompt": "sepia"})
    key = {"Idempotency-Key": "one"}
    await ask("POST", "/edit", data=form(), headers=key)
    await ask("POST", "/edit", data=form(seed="2"), headers=key)
    await ask("GET", "/status/{id}", queued)
    await ask("GET", "/result/{id}", queued)
    await ask("GET", "/result/{id}", queued, headers={"Accept": "image/*"})
    worker.finish()
    worker.claim().fail(EngineError("the edit failed"))
    again = datetime(2026, 11, 27, tzinfo=UTC)
    note_attempt(worker.spool, completed, last_answer="503", next_attempt_at=again)
    note_attempt(worker.spool, failed, last_answer="410 Gone", outcome="dropped")
    worker.claim().fail(InvalidRequest("the prompt is wrong", field="prompt"))
    worker.claim().report(Progress(phase="editing", step=1, steps=2, eta_seconds=0.5))
    worker.show(WorkerState.RUNNING, job=running, recent_failures=FAILURES)
    observer.client = await connect(**told)  # nor since
    for id in ids:
        await ask("GET", "/status/{id}", id)
    picture = await ask("GET", "/result/{id}", completed)
    await ask("GET", "/result/{id}", completed, headers={"Range": "bytes=0-9"})
    await ask("GET", "/result/{id}", completed, headers={"Range": "bytes=99999999-"})
    await ask("GET", "/result/{id}", completed, headers={"If-Match": '"other"'})
    tag = {"If-None-Match": picture.headers["ETag"]}
    await ask("GET", "/result/{id}", completed, headers=tag)
    await ask("GET", "/result/{id}", failed)
    small = await ask("GET", "/thumbnails/{id}", completed)
    known = {"If-None-Match": small.headers["ETag"]}
    await ask("GET", "/thumbnails/{id}", completed, headers=known)
    await ask("GET", "/thumbnails/{id}", failed)
    await ask("GET", "/thumbnails/{id}", queued)
    picture = await ask("GET", "/inputs/{id}", queued)
    await ask("GET", "/inputs/{id}", queued, headers={"Range": "bytes=0-9"})
    await ask("GET", "/inputs/{id}", queued, headers={"If-None-Match": picture.headers["ETag"]})
    stream = await ask("GET", "/events/{id}", failed)
    [last] = [line for line in (await stream.text()).splitlines() if line.startswith("id: ")]
    await ask("GET", "/events/{id}", failed, headers={"Last-Event-ID": last.removeprefix("id: ")})
    (await ask("GET", "/events")).close()
    await ask("POST", "/results.zip", json={"ids": [completed]})
    await ask("POST", "/results.zip", json={"ids": [completed, failed]})
    await ask("POST", "/results.zip", json={"ids": []})
    await ask("POST", "/results.zip", data=b"x")
    await ask("GET", "/jobs")
    await ask("GET", "/jobs?limit=2")
    await ask("GET", "/jobs?limit=0")
    await ask("GET", "/system/status")
    await ask("POST", "/jobs/{id}/retry", completed)
    await ask("POST", "/jobs/{id}/retry", refused)
    await ask("POST", "/jobs/{id}/cancel", running)
    await ask("POST", "/jobs/{id}/cancel", queued)
    await ask("POST", "/jobs/{id}/cancel", completed)
    await ask("DELETE", "/jobs/{id}", running)
    await ask("DELETE", "/jobs/{id}", queued)
    await ask("DELETE", "/jobs/{id}?state=running", completed)
    await ask("DELETE", "/jobs/{id}", completed)
    for method, path in [
        ("GET", "/status/{id}"),
        ("GET", "/result/{id}"),
        ("GET", "/inputs/{id}"),
        ("GET", "/thumbnails/{id}"),
        ("GET", "/events/{id}"),
    ]:
        for id in (completed, UNKNOWN_ID, "nonsense"):
            await ask(method, path, id)
    for method, path in [
        ("DELETE", "/jobs/{id}"),
        ("POST", "/jobs/{id}/cancel"),
        ("POST", "/jobs/{id}/retry"),
    ]:
        for id in (completed, UNKNOWN_ID, "nonsense"):
            await ask(method, path, id)
    for route in ROUTES:
        await ask(route.method, route.path, UNKNOWN_ID, headers={"Authorization": "Bearer wrong"})
        await ask(route.method, route.path, UNKNOWN_ID, headers={"Expect": "more"})

    schemas = observer.described["components"]["schemas"]
    of_openai = {"Pictures", "Picture"}
    for name, schema in schemas.items():
        if schema["type"] == "object" and name not in of_openai:
            assert observer.keys[name] == schema["properties"].keys(), name
    for route in ROUTES:
        shown = operation_of(observer.described, route)["responses"]
        good = {status for status in shown if status < "400"}
        if "openai" not in route.handler.__module__ or not route.form_fields:
            missing = good - observer.seen[f"{route.method} {route.path}"]
            assert not missing, route.path


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_an_answer_of_the_openai_api_is_as_described(
    connect: Connect, worker: HandWorker, response_format: str
) -> None:
    worker.show(WorkerState.READY)
    client = await connect(api_token=TOKEN)
    observer = Observer(client, await get(client, "/openapi.json"))
    path = "/v1/images/edits"
    for fields in ({"model": "other"}, {"markup": "x"}):
        await observer.ask("POST", path, data=form(**fields))
    data = form(response_format=response_format)
    answer = asyncio.create_task(observer.ask("POST", path, data=data))
    await asyncio.to_thread(wait_until, lambda: os.listdir(worker.spool.incoming))
    worker.finish()
    assert (await answer).status == 200
    schemas = observer.described["components"]["schemas"]
    assert observer.keys["Pictures"] == schemas["Pictures"]["properties"].keys()
    assert observer.keys["Picture"] == {response_format}
    assert schemas["Picture"]["properties"].keys() == {"b64_json", "url"}
    answer = asyncio.create_task(observer.ask("POST", path, data=form(prompt="blurry")))
    await asyncio.to_thread(wait_until, lambda: os.listdir(worker.spool.incoming))
    worker.claim().fail(EngineError("the paint ran out"))
    assert (await answer).status == 500


# --- the page -------------------------------------------------------------------------------------


async def test_the_page_loads_its_script_and_nothing_elsewhere(connect: Connect) -> None:
    client = await connect()
    response = await client.get("/docs")
    page = await response.text()
    assert response.content_type == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "*" not in policy
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]*)"', page)
    assert loaded == ["data:,", "/docs/rapidoc.js", "/openapi.json"]
    for path in loaded[1:]:
        assert not urlsplit(path).netloc
        assert (await client.get(path)).status == 200


@pytest.mark.parametrize("encoding", ["gzip, deflate, br", "identity"])
async def test_the_script_comes_as_the_client_reads_it(connect: Connect, encoding: str) -> None:
    client = await connect(api_token=TOKEN)
    response = await client.get("/docs/rapidoc.js", headers={"Accept-Encoding": encoding})
    body = await response.read()
    assert response.headers.get("Content-Encoding") == ("gzip" if "gzip" in encoding else None)
    assert response.headers["Vary"] == "Accept-Encoding"
    assert body.startswith(b"/*! RapiDoc 9.3.8 ")


def test_the_licence_of_the_script_is_beside_it() -> None:
    folder = Path(__file__).parents[2] / "i2ii_spool/server/page"
    script = gzip.decompress((folder / "rapidoc.js.gz").read_bytes()).decode()
    version = re.match(r"/\*! (RapiDoc [\d.]+) ", script)
    assert version
    text = (folder / "rapidoc.LICENSE.txt").read_text()
    assert version[1] in text
    assert "Permission is hereby granted" in text
