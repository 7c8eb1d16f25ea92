"""The three clients do the same thing: over HTTP, async over HTTP, and straight into the spool."""

import asyncio
import io
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest
from PIL import Image

from i2ii_spool import client as client_module
from i2ii_spool.client import AsyncClient, Client, OnStatus, Picture, SpoolClient
from i2ii_spool.errors import Deleted, I2iiError, InvalidRequest, NoServer, NotFound, TryLater
from i2ii_spool.jobs.request import EditRequest, Job
from i2ii_spool.spool import actions
from i2ii_spool.spool.status import JobStatus
from tests.support import UNKNOWN_ID
from tests.support.jobs import names_in
from tests.support.pictures import make_picture
from tests.support.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("client")  # one service for the file

KINDS = ["sync", "async", "spool"]
OVER_HTTP = ["sync", "async"]


class AnyClient(Protocol):
    """What the three have in common."""

    def submit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
    ) -> str: ...
    def edit(
        self,
        pictures: Sequence[Picture],
        request: EditRequest,
        *,
        mask: Picture | None = None,
        on_status: OnStatus | None = None,
    ) -> Image.Image: ...
    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus: ...
    def result(self, id: str, n: int = 1) -> bytes: ...
    def cancel(self, id: str) -> None: ...
    def retry(self, id: str) -> None: ...


class Awaited:
    """An `AsyncClient` whose every call is awaited, so that one test can be about all three."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Awaitable[Any]] = getattr(self._client, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await method(*arguments, **options)

        return lambda *arguments, **options: self._runner.run(call(*arguments, **options))


def over_http(kind: str, url: str) -> Iterator[AnyClient]:
    if kind == "sync":
        with Client(url) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        asynchronous = AsyncClient(url)
        runner.run(asynchronous.__aenter__())
        try:
            yield Awaited(runner, asynchronous)
        finally:
            runner.run(asynchronous.__aexit__())


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[AnyClient]:
    """One kind of client of a service, which the test asks for with `clients_of`."""
    kind, fixture = request.param
    service: Service = request.getfixturevalue(fixture)
    if kind == "spool":
        yield SpoolClient(service.spool, max_pixels=10**8)
    else:
        yield from over_http(kind, service.url or service.serve())


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server without workers: what is submitted waits."""
    service = Service(tmp_path_factory.mktemp("idle"))
    service.serve()
    yield service
    service.stop_all()


@pytest.fixture
def deaf(request: pytest.FixtureRequest) -> Iterator[AnyClient]:
    """A client of an address at which no server listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield from over_http(request.param, f"http://127.0.0.1:{bound.getsockname()[1]}")


def clients_of(service: str) -> pytest.MarkDecorator:
    """Each kind of client, of this service: `live`, which has a worker, `idle`, which has none, or
    `service`, which no other test uses."""
    clients = [pytest.param((kind, service), id=kind) for kind in KINDS]
    return pytest.mark.parametrize("client", clients, indirect=True)


@dataclass(frozen=True)
class Refusal:
    """What an error says to a program."""

    code: str
    field: str | None


def refusal(
    call: Callable[..., Any], *arguments: Any, kind: type[I2iiError] = I2iiError
) -> Refusal:
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert caught.value.message
    return Refusal(caught.value.code, caught.value.field)


# --- what goes well -------------------------------------------------------------------------------


@clients_of("live")
def test_a_picture_is_edited(client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia", seed=7, name="wedding 042"))
    status = client.wait(id)

    assert id.endswith("_wedding-042")
    assert (status.request_id, status.status, status.seed) == (id, "completed", 7)
    assert (status.width, status.height, status.outputs) == (64, 48, ("result.png",))
    with Image.open(io.BytesIO(client.result(id))) as edited, Image.open(picture) as original:
        assert (edited.format, edited.size) == ("PNG", original.size)
        assert edited.convert("RGB").tobytes() != original.convert("RGB").tobytes()


@clients_of("idle")
def test_every_request_field_reaches_the_job(
    idle: Service, client: AnyClient, tmp_path: Path
) -> None:
    pictures = [make_picture(tmp_path / name) for name in ("a.png", "b.jpg", "c.webp")]
    request = EditRequest(
        prompt="将图像转换为水彩画风格", negative_prompt="blurry", num_inference_steps=20,
        true_cfg_scale=2.5, seed=42,
        size="32x48", output_format="webp", n=2, name="婚礼",
    )  # fmt: skip

    id = client.submit(pictures, request)

    folder = idle.spool.incoming / id
    job = Job.model_validate_json((folder / "job.json").read_bytes())
    assert job.model_dump(include=set(EditRequest.model_fields)) == request.model_dump()
    for name, original in zip(("input.png", "input-2.jpg", "input-3.webp"), pictures, strict=True):
        assert (folder / name).read_bytes() == original.read_bytes()


@clients_of("live")
def test_each_of_several_pictures_is_fetched_by_its_number(
    live: Service, client: AnyClient, picture: Path
) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia", n=2, output_format="jpeg"))
    client.wait(id)

    done = live.spool.done / id
    assert client.result(id) == client.result(id, 1) == (done / "result.jpg").read_bytes()
    assert client.result(id, 2) == (done / "result-2.jpg").read_bytes()


@clients_of("idle")
def test_a_default_that_is_said_beside_a_preset_is_kept(
    idle: Service, client: AnyClient, picture: Path
) -> None:
    id = client.submit(
        [picture], EditRequest(prompt="anything", preset="fast", num_inference_steps=50)
    )
    record = json.loads((idle.spool.incoming / id / "job.json").read_text())
    assert record["num_inference_steps"] == 50
    assert "true_cfg_scale" not in record, "what is not said is the preset's to decide"


@clients_of("service")
def test_wait_reports_each_status(service: Service, client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="anything", num_inference_steps=30))
    heard: list[JobStatus] = []

    def on_status(status: JobStatus) -> None:
        if not heard:
            service.work(engine="slow")
        heard.append(status)

    status = client.wait(id, on_status)

    order = ["queued", "running", "completed"]
    assert heard[-1] == status
    assert list(dict.fromkeys(each.status for each in heard)) == order
    assert heard[0].position == 1
    steps = [each.step for each in heard if each.status == "running" and each.phase == "editing"]
    assert steps
    assert steps == sorted(step for step in steps if step is not None)
    assert {each.steps for each in heard if each.phase == "editing"} == {30}


@clients_of("live")
def test_a_picture_of_pillow_becomes_one(client: AnyClient, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    with Image.open(make_picture(tmp_path / "a.jpg", (64, 48), exif=exif)) as photo:
        heard: list[JobStatus] = []
        edited = client.edit([photo], EditRequest(prompt="invert"), on_status=heard.append)
    assert edited.size == (48, 64)
    assert heard[-1].status == "completed"


@clients_of("live")
def test_what_a_mask_keeps_stays(client: AnyClient, picture: Path) -> None:
    with Image.open(picture) as opened:
        before = opened.convert("RGB")
    mask = Image.new("RGBA", before.size, "white")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 48))
    made = client.edit([picture.read_bytes()], EditRequest(prompt="invert"), mask=mask)
    right = (32, 0, 64, 48)
    assert made.convert("RGB").crop(right).tobytes() == before.crop(right).tobytes()
    assert made.convert("RGB").tobytes() != before.tobytes()


@clients_of("idle")
def test_what_edit_cannot_return_is_refused(client: AnyClient, picture: Path) -> None:
    with pytest.raises(InvalidRequest, match="n must be 1"):
        client.edit([picture], EditRequest(prompt="sepia", n=2))
    with pytest.raises(InvalidRequest, match="CMYK; convert it to RGB"):
        client.edit([Image.new("CMYK", (64, 48))], EditRequest(prompt="sepia"))


@clients_of("idle")
def test_a_cancelled_job_is_retried(idle: Service, client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia"))
    client.cancel(id)
    client.retry(id)
    assert (idle.spool.incoming / id).is_dir()


# --- cancelling -----------------------------------------------------------------------------------


@clients_of("idle")
def test_a_waiting_job_is_cancelled(idle: Service, client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia"))

    client.cancel(id)

    status = client.wait(id)
    assert (status.status, (status.error or {})["code"]) == ("cancelled", "cancelled")
    assert (idle.spool.failed / id).is_dir()


@clients_of("service")
def test_a_running_job_is_cancelled(service: Service, client: AnyClient, picture: Path) -> None:
    service.work(engine="slow")
    id = client.submit([picture], EditRequest(prompt="anything", num_inference_steps=100))
    wait_until(lambda: list(service.spool.running.glob(f"*/{id}")))

    client.cancel(id)

    assert client.wait(id).status == "cancelled"
    assert (service.spool.failed / id).is_dir()


# --- errors ---------------------------------------------------------------------------------------


@clients_of("live")
def test_a_failed_job_says_why_and_has_no_result(client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="qwertyuiop"))

    status = client.wait(id)

    assert status.status == "failed"
    assert "watercolour" in (status.error or {})["message"]
    with pytest.raises(I2iiError, match="watercolour") as caught:
        client.result(id)
    assert caught.value.code == (status.error or {})["code"]


@clients_of("idle")
def test_a_job_that_has_not_ended_has_no_result_yet(client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia"))

    with pytest.raises(I2iiError, match="queued") as caught:
        client.result(id)
    assert caught.value.code == "wrong_state"


@clients_of("live")
def test_a_picture_that_was_not_made_is_not_found(client: AnyClient, picture: Path) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia"))
    client.wait(id)

    assert refusal(client.result, id, 2, kind=NotFound) == Refusal("not_found", None)
    refusal(client.result, id, 0)


@clients_of("idle")
def test_bad_pictures_are_refused(idle: Service, client: AnyClient, tmp_path: Path) -> None:
    waiting = names_in(idle.spool.incoming)
    whole = make_picture(tmp_path / "whole.png").read_bytes()
    bad = tmp_path / "bad.png"

    for contents in (b"hello", b"", whole[: len(whole) // 2]):
        bad.write_bytes(contents)
        refused = refusal(client.submit, [bad], EditRequest(prompt="sepia"))
        assert refused == Refusal("unsupported_picture", "image")

    assert names_in(idle.spool.incoming) == waiting
    assert names_in(idle.spool.staging) == []


@clients_of("idle")
def test_too_few_and_too_many_pictures_are_refused(client: AnyClient, picture: Path) -> None:
    for pictures in ([], [picture] * 11):
        refused = refusal(client.submit, pictures, EditRequest(prompt="sepia"))
        assert refused == Refusal("invalid_request", "image")


@clients_of("idle")
def test_a_job_that_never_was_is_not_found(client: AnyClient) -> None:
    for call in (client.wait, client.result, client.cancel):
        assert refusal(call, UNKNOWN_ID, kind=NotFound) == Refusal("not_found", None)


@clients_of("idle")
def test_what_is_not_an_id_is_refused(client: AnyClient) -> None:
    for call in (client.wait, client.result, client.cancel):
        assert refusal(call, "nonsense") == Refusal("invalid_request", "id")


@clients_of("idle")
def test_a_deleted_job_is_said_to_be_deleted(
    idle: Service, client: AnyClient, picture: Path
) -> None:
    id = client.submit([picture], EditRequest(prompt="sepia"))
    client.cancel(id)
    actions.delete_job(idle.spool, id)

    for call in (client.wait, client.result, client.cancel):
        assert refusal(call, id, kind=Deleted) == Refusal("deleted", None)


@pytest.mark.parametrize("deaf", OVER_HTTP, indirect=True)
def test_a_server_that_does_not_answer_is_said_to(deaf: AnyClient, picture: Path) -> None:
    assert refusal(deaf.submit, [picture], EditRequest(prompt="sepia")) == Refusal(
        "no_server", None
    )
    for call in (deaf.wait, deaf.result, deaf.cancel):
        assert refusal(call, UNKNOWN_ID) == Refusal("no_server", None)


class Odd(BaseHTTPRequestHandler):
    """Gives one answer to every request, as a proxy does, or a service of another kind."""

    answer = (200, "application/json", b"{}")
    headers_of_proxy: ClassVar[dict[str, str]] = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}

    def do_GET(self) -> None:
        status, kind, body = self.answer
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **self.headers_of_proxy,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


JSON = "application/json"


@pytest.mark.parametrize(
    "answer",
    [
        (200, JSON, b"[]"),
        (200, JSON, b"{}"),
        (200, JSON, b'"text"'),
        (200, JSON, b"{"),
        (200, JSON, b"\xff\xfe"),
        (200, JSON, b'{"request_id": 1, "status": "lost"}'),
        (200, "text/html", b"<h1>sign in</h1>"),
        (202, JSON, b"[]"),
        (204, JSON, b""),
        (404, JSON, b'{"error": "no such page"}'),
        (404, JSON, b"[1]"),
        (429, "text/html", b"slow down"),
        (502, "text/html", b"<h1>Bad Gateway</h1>"),
        (503, JSON, b"null"),
    ],
)
def test_the_answer_of_something_else_is_no_server(
    odd_url: str, picture: Path, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str, bytes]
) -> None:
    monkeypatch.setattr(Odd, "answer", answer)
    with Client(odd_url) as client:
        is_id = answer[:2] == (200, JSON) and b"request_id" in answer[2]
        if not is_id:
            with pytest.raises(NoServer, match=r"is not an i2ii server|no server answers"):
                client.submit([picture], EditRequest(prompt="sepia"))
        for call in (client.wait, client.result, client.cancel):
            with pytest.raises(NoServer, match=r"is not an i2ii server|no server answers"):
                call(UNKNOWN_ID)


def test_a_time_to_try_again_may_be_a_date(odd_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = b'{"error": {"code": "too_many_connections", "message": "full"}}'
    monkeypatch.setattr(Odd, "answer", (503, JSON, refused))
    with Client(odd_url) as client, pytest.raises(TryLater) as caught:
        client.wait(UNKNOWN_ID)
    assert caught.value.retry_after == 1


def test_a_server_that_is_silent_is_given_up(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url) as client:
            for call in (
                lambda: client.submit([picture], EditRequest(prompt="sepia")),
                lambda: client.result(UNKNOWN_ID),
            ):
                with pytest.raises(NoServer, match=url):
                    call()


def test_a_wait_outlives_a_restart_of_the_server(service: Service, picture: Path) -> None:
    port = service.serve().rpartition(":")[2]
    with Client(service.url) as client:
        id = client.submit([picture], EditRequest(prompt="sepia"))
        heard: list[JobStatus] = []

        def on_status(status: JobStatus) -> None:
            if not heard:
                service.processes[0].kill()
                service.processes[0].wait()
                service.start(sys.executable, "-m", "i2ii_spool", "serve", "--port", port)
                service.work()
            heard.append(status)

        assert client.wait(id, on_status).status == "completed"
        assert heard[0].status == "queued"
        assert client.result(id)


async def test_the_async_client_serves_many_at_once_and_takes_bytes(
    live: Service, picture: Path
) -> None:
    async with AsyncClient(live.url) as client:

        async def edit(seed: int) -> JobStatus:
            id = await client.submit([picture.read_bytes()], EditRequest(prompt="sepia", seed=seed))
            return await client.wait(id)

        ended = await asyncio.gather(*map(edit, range(8)))

        assert [(status.status, status.seed) for status in ended] == [
            ("completed", seed) for seed in range(8)
        ]
        assert (await client.system())["completed_requests"] >= 0
