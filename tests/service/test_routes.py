"""What holds on every route: parameters, bodies, methods, and other spellings of its path."""

import re

import pytest
from aiohttp import ClientResponse

from i2ii_spool.server.app import ROUTES
from i2ii_spool.server.routing import Route
from i2ii_spool.spool.layout import Spool
from tests.support import filled
from tests.support.app import Connect, check_error, form, get, is_empty
from tests.support.http import END, MULTIPART, part
from tests.support.jobs import SubmitJob


def each(routes: list[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "route", routes, ids=lambda route: f"{route.method} {route.path}"
    )


EACH_ROUTE = each(ROUTES)


def path_of(route: Route) -> str:
    return filled(route.path)


async def keys_of(response: ClientResponse) -> set[str]:
    """The keys of an answer in JSON; the families of metrics; of another answer its text."""
    if response.content_type == "application/json":
        return set(await response.json())
    if response.content_type == "text/event-stream":  # it has no end
        response.close()
        return {response.content_type}
    if response.content_type == "text/plain":
        return set(re.findall(r"^# TYPE (\w+)", await response.text(), re.MULTILINE))
    return {await response.text()}


# --- parameters and bodies ------------------------------------------------------------------------


@EACH_ROUTE
async def test_a_parameter_that_a_route_does_not_take_is_refused(
    connect: Connect, spool: Spool, route: Route
) -> None:
    client = await connect()
    data = form() if route.form_fields else None
    response = await client.request(route.method, path_of(route) + "?seed=7", data=data)
    message = await check_error(response, 400, "invalid_request", "seed")
    assert f"seed is not a parameter of {route.method} {route.path}" in message
    if route.form_fields:
        assert "send it as a form field, like curl -F seed=" in message
    else:
        assert f"it takes {', '.join(each.name for each in route.parameters) or 'none'}" in message
    assert is_empty(spool)


@EACH_ROUTE
async def test_what_keeps_caches_away_is_passed_over(connect: Connect, route: Route) -> None:
    client = await connect()
    with_it = await client.request(route.method, path_of(route) + "?_=1&_=2")
    without = await client.request(route.method, path_of(route))
    assert with_it.status == without.status
    assert await keys_of(with_it) == await keys_of(without)


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
async def test_other_methods_of_a_route_take_no_more_parameters(
    connect: Connect, method: str
) -> None:
    client = await connect()
    assert (await client.request(method, "/jobs?page=2")).status == 400
    assert (await client.request(method, "/jobs?_=2")).status in (200, 204)


@each([route for route in ROUTES if not route.takes_body])
@pytest.mark.parametrize("body", [b'{"seed": 7}', b"seed=7", part("seed", b"7") + END])
async def test_a_body_that_a_route_does_not_take_is_refused(
    connect: Connect, route: Route, body: bytes
) -> None:
    client = await connect()
    response = await client.request(route.method, path_of(route), data=body, headers=MULTIPART)
    assert "takes no body" in await check_error(response, 400, "invalid_request")


async def test_an_empty_object_is_no_body(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    id = submit_job()
    await client.delete(f"/jobs/{id}", json={})
    assert (await client.post(f"/jobs/{id}/retry", json={})).status == 202


async def test_a_parameter_is_called_a_field_only_if_it_is_one(connect: Connect) -> None:
    client = await connect()
    response = await client.post("/edit?wait=30", data=form())
    message = await check_error(response, 400, "invalid_request", "wait")
    assert "wait is not a parameter of POST /edit; it takes none" in message


async def test_an_idempotency_key_given_twice_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    keys = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    response = await client.post("/edit", data=form(), headers=keys)
    assert "twice" in await check_error(response, 400, "invalid_request", "Idempotency-Key")
    assert is_empty(spool)


# --- methods and paths ----------------------------------------------------------------------------


@EACH_ROUTE
async def test_options_lists_the_methods_of_a_route(connect: Connect, route: Route) -> None:
    client = await connect()
    response = await client.options(path_of(route))
    assert (response.status, await response.read()) == (204, b"")
    allowed = response.headers["Allow"].split(", ")
    of_path = {other.method for other in ROUTES if other.path == route.path}
    assert set(allowed) == {*of_path, "OPTIONS", *(["HEAD"] if "GET" in of_path else [])}
    assert not [name for name in response.headers if name.startswith("Access-Control")]
    refused = await client.request("PATCH", path_of(route))
    await check_error(refused, 405, "method_not_allowed")
    assert refused.headers["Allow"] == response.headers["Allow"]


@each([route for route in ROUTES if route.method == "GET"])
async def test_head_is_get_without_the_body(connect: Connect, route: Route) -> None:
    client = await connect()
    head, whole = await client.head(path_of(route)), await client.get(path_of(route))
    assert (head.status, await head.read()) == (whole.status, b"")
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]


@EACH_ROUTE
@pytest.mark.parametrize("spelling", ["{}/", "/{}", "{}//"])
async def test_more_slashes_lead_to_the_same_route(
    connect: Connect, route: Route, spelling: str
) -> None:
    client = await connect()
    answers = []
    for path in (path_of(route), spelling.format(path_of(route).replace("/", "//"))):
        url = f"http://{client.host}:{client.port}{path}"
        answers.append(await client.session.request(route.method, url))
    plain, other = answers
    assert other.status == plain.status
    assert await keys_of(other) == await keys_of(plain)


async def test_a_trailing_slash_keeps_the_id_and_the_parameters(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(2)]
    assert (await get(client, f"/status/{ids[0]}/?wait=0"))["request_id"] == ids[0]
    assert len((await get(client, "/jobs/?limit=1"))["jobs"]) == 1
