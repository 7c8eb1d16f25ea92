"""`i2ii up` as a real process: one command that brings everything up, keeps it up, and takes it
down again."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2ii_spool.ops.supervisor import Supervisor, page_url
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support import FAKE_DRIVER
from tests.support.service import Service, cli, get_json, wait_until

EX_CONFIG = 78
HEALTHY = {"minor": 0, "uuid": "GPU-aaaa0000-1111"}
LOST = {"minor": 1, "uuid": "GPU-bbbb0000-1111", "errors": {"nvmlDeviceGetHandleByIndex": 15}}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def up(service: Service, port: int) -> Callable[[], subprocess.Popen[bytes]]:
    """Start `i2ii up` on a machine without a GPU, and wait until it serves with a worker."""
    service.environment["CUDA_VISIBLE_DEVICES"] = ""

    def start() -> subprocess.Popen[bytes]:
        process = start_up(service, port)
        wait_until(lambda: "listening on " in service.read_log() and ready_workers(service))
        return process

    return start


def start_up(service: Service, port: int) -> subprocess.Popen[bytes]:
    return service.start(sys.executable, "-m", "i2ii_spool", "up", "--port", str(port))


def ready_workers(service: Service) -> list[int]:
    """The pids of the workers that take jobs."""
    return [
        status["pid"] for status in service.workers() if status["state"] in ("ready", "running")
    ]


def test_nothing_in_the_working_directory_is_run(service: Service, port: int) -> None:
    folder = service.spool.root.parent / "shared"
    folder.mkdir()
    for module in ("queue.py", "resource.py", "aiohttp.py"):
        (folder / module).write_text("raise SystemExit('run from the working directory')")
    i2ii = str(Path(sys.executable).with_name("i2ii"))
    service.environment["CUDA_VISIBLE_DEVICES"] = ""
    service.start(
        *("sh", "-c", 'cd "$0" && exec "$@"', str(folder)),
        *(sys.executable, "-P", i2ii, "up", "--port", str(port)),
    )
    wait_until(lambda: "listening on " in service.read_log() and ready_workers(service))
    assert "working directory" not in service.read_log()


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [pid for pid, parent in alive().items() if parent == process.pid]


def alive() -> dict[int, int]:
    """The parent of every process that has not ended."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in ("Z", "X"):
            parents[int(path.parent.name)] = int(parent)
    return parents


def all_gone(pids: list[int]) -> bool:
    return not alive().keys() & set(pids)


def edit(service: Service, port: int, picture: Path, result: Path) -> Any:
    """Edit the picture over HTTP with the command; return the status of the job."""
    url = f"http://127.0.0.1:{port}"
    id = cli(service, "submit", str(picture), "-p", "sepia", "--url", url).stdout.strip()
    status = get_json(f"{url}/status/{id}?wait=30")
    with urllib.request.urlopen(f"{url}/result/{id}", timeout=30) as answer:
        result.write_bytes(answer.read())
    return status


def test_one_command_serves_edits_and_ends_with_all_its_children(
    service: Service,
    up: Callable[[], subprocess.Popen[bytes]],
    port: int,
    picture: Path,
    tmp_path: Path,
) -> None:
    process = up()
    pids = children(process)
    assert len(pids) == 2
    assert f"API http://127.0.0.1:{port}, spool {service.spool.root}" in service.read_log()
    assert get_json(f"http://127.0.0.1:{port}/health")["status"] == "healthy"

    assert edit(service, port, picture, tmp_path / "result.png")["status"] == "completed"
    with Image.open(tmp_path / "result.png") as result, Image.open(picture) as original:
        assert result.width * original.height == result.height * original.width
        result.load()

    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert all_gone(pids)
    assert service.workers() == []
    assert "Traceback" not in service.read_log()


def test_a_worker_that_dies_is_started_again(
    service: Service,
    up: Callable[[], subprocess.Popen[bytes]],
    port: int,
    picture: Path,
    tmp_path: Path,
) -> None:
    process = up()
    [worker] = ready_workers(service)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: ready_workers(service) not in ([], [worker]))
    assert "gpu 0 ended with code -9; starting it again" in service.read_log()
    assert edit(service, port, picture, tmp_path / "result.png")["status"] == "completed"
    pids = children(process)
    assert len(pids) == 2
    process.terminate()
    assert process.wait(30) == 0
    assert all_gone(pids)


def test_a_server_that_dies_is_started_again_on_its_port(
    service: Service,
    up: Callable[[], subprocess.Popen[bytes]],
    port: int,
    picture: Path,
    tmp_path: Path,
) -> None:
    process = up()
    [server] = set(children(process)) - set(ready_workers(service))
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: service.read_log().count(f"listening on http://127.0.0.1:{port}") == 2)
    assert edit(service, port, picture, tmp_path / "result.png")["status"] == "completed"


def test_a_port_in_use_ends_it_with_one_clear_line(service: Service, port: int) -> None:
    service.environment["CUDA_VISIBLE_DEVICES"] = ""
    with socket.create_server(("127.0.0.1", port)):
        process = start_up(service, port)
        assert process.wait(30) == EX_CONFIG
    [line] = [line for line in service.read_log().splitlines() if "cannot listen" in line]
    assert line.startswith(f"i2ii: cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert line.endswith("choose another with --port")
    assert "Traceback" not in service.read_log()
    assert service.workers() == []


def test_a_wrong_setting_ends_it_before_it_starts_anything(service: Service, port: int) -> None:
    service.environment["I2II_MAX_ATTEMPTS"] = "0"
    process = start_up(service, port)
    assert process.wait(30) == EX_CONFIG
    [line] = service.read_log().splitlines()
    assert (
        "max_attempts must be greater than or equal to 1, got '0'; it comes from I2II_MAX_ATTEMPTS"
        in line
    )


def test_there_is_one_worker_for_each_visible_gpu(service: Service, port: int) -> None:
    service.environment |= {"CUDA_VISIBLE_DEVICES": "2,3", "I2II_ENGINE": "classic"}
    process = start_up(service, port)
    wait_until(lambda: len(ready_workers(service)) == 2)
    assert sorted(status["gpu_id"] for status in service.workers()) == [2, 3]
    pids = children(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert all_gone(pids)


def with_gpus(service: Service, cards: Any, **environment: str) -> None:
    service.environment |= {
        "PYTHONPATH": str(FAKE_DRIVER),
        "FAKE_GPUS": json.dumps(cards),
        **environment,
    }


def check_it_serves_with(service: Service, process: subprocess.Popen[bytes], *ids: Any) -> None:
    """The server and these workers alone run, until the process is told to stop."""
    wait_until(lambda: "listening on " in service.read_log())
    wait_until(lambda: len(ready_workers(service)) == len(ids))
    assert sorted(status["gpu_id"] for status in service.workers()) == [*ids]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Traceback" not in service.read_log()


def test_a_gpu_that_does_not_answer_gets_no_worker(service: Service, port: int) -> None:
    with_gpus(service, [HEALTHY, LOST])
    check_it_serves_with(service, start_up(service, port), 0)
    said = "GPU 1 does not answer: GPU is lost; there is no worker for it"
    assert service.read_log().count(said) == 1
    assert "gpu 1" not in service.read_log()


def test_a_worker_that_cannot_start_is_left_out(service: Service, port: int) -> None:
    with_gpus(service, [HEALTHY], CUDA_VISIBLE_DEVICES="7,0")
    process = start_up(service, port)
    wait_until(lambda: "gpu 0 cannot start (exit code 78" in service.read_log())
    check_it_serves_with(service, process, 0)
    assert service.read_log().count("GPU 7 not found") == 1
    assert service.read_log().count("is left out; the others go on") == 1


def test_it_ends_when_no_worker_can_start(service: Service, port: int) -> None:
    with_gpus(service, [HEALTHY], CUDA_VISIBLE_DEVICES="7,8")
    process = start_up(service, port)
    assert process.wait(30) == EX_CONFIG
    assert service.read_log().count("not found: this process may use 0") == 2
    assert "Traceback" not in service.read_log()


@pytest.mark.parametrize("cards", [{"error": 18}, [], [LOST]])
def test_the_classic_engine_needs_no_driver_that_works(
    service: Service, port: int, cards: Any
) -> None:
    with_gpus(service, cards)
    check_it_serves_with(service, start_up(service, port), 0)


@pytest.mark.parametrize(
    ("cards", "says"), [({"error": 18}, "driver does not work"), ([LOST], "GPU 0 does not answer")]
)
def test_a_broken_driver_is_not_taken_for_a_machine_without_a_gpu(
    service: Service, port: int, cards: Any, says: str
) -> None:
    with_gpus(service, cards, I2II_ENGINE="auto")
    process = start_up(service, port)
    assert process.wait(30) == 1
    [error] = [line for line in service.read_log().splitlines() if line.startswith("i2ii: ")]
    assert says in error
    assert service.workers() == []


def test_when_it_is_killed_its_children_end_as_well(
    service: Service, up: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = up()
    pids = children(process)
    assert len(pids) == 2
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: all_gone(pids), seconds=30)
    assert service.workers() == []  # the worker has said goodbye


async def test_a_stop_reaches_a_child_that_is_just_being_started(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    start = asyncio.create_subprocess_exec
    started = []

    async def start_as_a_signal_comes(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(*command, **options)
        started.append(child)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(
            0.05
        )  # the signal is handled before the supervisor gets to know its child
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_as_a_signal_comes)
    stopping = asyncio.create_task(
        Supervisor(Settings(spool=spool.root, port=0, drain_seconds=60)).run()
    )
    try:
        assert await asyncio.wait_for(stopping, 20) == 0
    finally:
        for child in started:
            if child.returncode is None:
                child.kill()
                await child.wait()


def test_the_page_is_opened_once_the_server_listens(
    service: Service, port: int, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(
        "#!/bin/sh\n"
        f'{sys.executable} -c "import sys, urllib.request; '
        f"page = urllib.request.urlopen(sys.argv[1]).read().decode(); "
        f"open('{opened}', 'w').write(sys.argv[1] + page)\" \"$1\"\n"
    )
    browser.chmod(0o755)
    service.environment |= {"CUDA_VISIBLE_DEVICES": "", "BROWSER": f"{browser} %s"}
    service.start(sys.executable, "-m", "i2ii_spool", "up", "--port", str(port), "--open")
    wait_until(lambda: opened.exists() and opened.read_text())
    assert opened.read_text().startswith(f"http://127.0.0.1:{port}/<!doctype html>")
    [first, *_] = service.read_log().splitlines()
    assert first.endswith(f"the page is http://127.0.0.1:{port}/")


def test_a_page_without_a_port_cannot_be_opened(service: Service) -> None:
    refused = cli(service, "up", "--port", "0", "--open", check=False)
    assert refused.returncode == EX_CONFIG
    assert "--open needs a port" in refused.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("gpus.example", "http://gpus.example:8000"),
    ],
)
def test_the_page_is_at_an_address_that_this_machine_reaches(host: str, url: str) -> None:
    settings = Settings(host=host, port=8000, no_auth=host not in ("127.0.0.1",))
    assert page_url(settings) == url
