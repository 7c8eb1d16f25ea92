"""Workers as real processes: what they show, how they stop, and what is left when they die."""

import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.liveness import list_workers, worker_name
from i2ii_spool.spool.submit import submit
from tests.support import STUB_ENGINES
from tests.support.jobs import SubmitJob
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, wait_until
from tests.support.workers import (
    GPU0,
    end,
    is_done,
    read,
    status_file,
    step_of,
    submit_into,
    wait_at_work,
    wait_done,
    wait_failed,
    wait_status,
)


@pytest.fixture
def submit_job(service: Service, picture: Path) -> SubmitJob:
    return partial(submit_into, service, picture)


# --- work -----------------------------------------------------------------------------------------


def test_jobs_are_done_in_queue_order_with_a_full_record(
    service: Service, submit_job: SubmitJob
) -> None:
    before = datetime.now().astimezone()
    ids = [submit_job(seed=seed, num_inference_steps=10) for seed in range(5)]
    service.work(engine="quick")
    results = [wait_done(service, id) for id in ids]
    ended = [datetime.fromisoformat(result["completed_at"]) for result in results]
    assert before < ended[0]
    assert ended == sorted(ended)
    for seed, (id, result) in enumerate(zip(ids, results, strict=True)):
        assert result["outputs"] == ["result.png"]
        assert (result["width"], result["height"], result["seed"]) == (64, 48, seed)
        assert (result["worker"], result["gpu_id"], result["attempt"]) == (GPU0, 0, 1)
        assert (result["engine"], result["model"], result["revision"]) == ("for tests", "none", "0")
        assert set(result["timings"]) == {"queue", "load", "edit", "save"}
        assert min(result["timings"].values()) >= 0
        attempt = read(service.spool.done / id / "attempt-1.json")
        assert attempt["worker"] == GPU0
        with Image.open(service.spool.done / id / "result.png") as picture:
            picture.load()
    wait_status(service, jobs_done=5, jobs_failed=0, state="ready", job=None)


def test_random_seed_is_drawn_for_each_job_and_recorded(
    service: Service, submit_job: SubmitJob
) -> None:
    service.environment["I2II_ENGINE"] = "classic"
    ids = [submit_job(prompt="film grain", seed=-1, size="input") for _ in range(2)]
    cli(service, "gpu", "0", "--burst")
    one, other = (wait_done(service, id)["seed"] for id in ids)
    assert one != other
    assert 0 <= min(one, other) < 2**32
    assert read(service.spool.done / ids[0] / "job.json")["seed"] == -1
    again = submit_job(prompt="film grain", seed=one, size="input")
    cli(service, "gpu", "0", "--burst")
    wait_done(service, again)
    made, same = ((service.spool.done / id / "result.png").read_bytes() for id in (ids[0], again))
    assert made == same


def test_several_pictures_come_in_the_format_asked_for(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(n=3, output_format="webp", num_inference_steps=10)
    service.work(engine="quick")
    assert wait_done(service, id)["outputs"] == ["result.webp", "result-2.webp", "result-3.webp"]
    for path in (service.spool.done / id).glob("result*.webp"):
        with Image.open(path) as picture:
            assert picture.format == "WEBP"


def test_a_burst_ends_when_the_queue_is_empty(service: Service, submit_job: SubmitJob) -> None:
    service.environment["I2II_ENGINE"] = "classic"
    ids = [submit_job(prompt="sepia"), submit_job(prompt="将图像转换为水彩画风格")]
    ended = cli(service, "gpu", "0", "--burst")
    assert [is_done(service, id) for id in ids] == [True, True]
    assert "2 jobs done, 0 failed" in ended.stderr
    assert not status_file(service).exists()


def test_progress_shows_while_a_job_runs_and_never_goes_back(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(num_inference_steps=50)
    service.work(engine="slow")
    steps: list[int] = []

    def watch() -> bool:
        steps.append(step_of(service.spool, id))
        return is_done(service, id)

    wait_at_work(service, id)
    shown = read(service.spool.running / GPU0 / id / "progress.json")
    assert (shown["phase"], shown["steps"]) == ("editing", 50)
    assert shown["eta_seconds"] > 0
    status = wait_status(service, state="running", job=id, steps=50)
    assert 0 < status["step"] < 50
    wait_until(watch)
    seen = [step for step in steps if step]
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_a_worker_tells_its_last_jobs(service: Service, submit_job: SubmitJob) -> None:
    ids = [submit_job(prompt="sepia") for _ in range(6)]
    wrong = submit_job(prompt="nothing that it knows")
    service.work()
    wait_until(
        lambda: service.workers()[0]["jobs_done"] == 6 and service.workers()[0]["jobs_failed"]
    )
    [status] = service.workers()
    assert status["recent_jobs"] == ids[1:]
    assert status["recent_failures"] == [{"job": wrong, "code": "unknown_instruction"}]


def test_idle_worker_beats_and_removes_its_status_file_at_exit(
    service: Service,
) -> None:
    worker = service.work(engine="quick")
    status = wait_status(service, state="ready")
    assert (status["worker"], status["pid"], status["gpu_id"]) == (GPU0, worker.pid, 0)
    first = status_file(service).stat().st_mtime_ns
    wait_until(lambda: status_file(service).stat().st_mtime_ns > first)
    assert end(worker) == 0
    assert not status_file(service).exists()


# --- cancelling and failing -----------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False], ids=["touch cancel", "i2ii cancel"])
def test_running_job_is_cancelled_between_steps_and_the_next_runs(
    service: Service, submit_job: SubmitJob, by_hand: bool
) -> None:
    id, next_id = submit_job(num_inference_steps=100), submit_job(num_inference_steps=10)
    service.work(engine="slow")
    wait_at_work(service, id)
    if by_hand:
        (service.spool.running / GPU0 / id / "cancel").touch()
    else:
        assert "stops at its next step" in cli(service, "cancel", id).stdout
    failure = wait_failed(service, id)
    assert failure["code"] == "cancelled"
    step = int(failure["message"].removeprefix("cancelled at step ").removesuffix(" of 100"))
    assert 0 < step < 100
    assert (service.spool.failed / id / "error.txt").read_text().startswith("cancelled: ")
    wait_done(service, next_id)


def test_a_job_cancelled_while_it_waited_is_never_begun(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job()
    (service.spool.incoming / id / "cancel").touch()
    service.work(engine="slow")
    assert wait_failed(service, id)["code"] == "cancelled"
    assert JobFolder(service.spool.failed / id).attempts() == []


def test_a_bug_in_the_engine_fails_its_job_alone(service: Service, submit_job: SubmitJob) -> None:
    id, next_id = submit_job(prompt="raise"), submit_job()
    service.work(engine="raises_in_edit")
    failure = wait_failed(service, id)
    assert (failure["code"], failure["worker"], failure["attempt"]) == ("engine_error", GPU0, 1)
    assert "a bug in the engine" in failure["message"]
    text = (service.spool.failed / id / "error.txt").read_text()
    assert text.startswith("engine_error: ")
    assert "Traceback (most recent call last)" in text
    assert "ZeroDivisionError" in text
    wait_done(service, next_id)
    wait_status(service, jobs_done=1, jobs_failed=1)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", None),
        ("[]", None),
        ('{"prompt": ""}', "prompt"),
        ('{"prompt": "sepia", "num_inference_steps": 5000}', "num_inference_steps"),
        ('{"prompt": "sepia", "inputs": ["../../secret.png"]}', "inputs"),
        ('{"prompt": "sepia", "inputs": ["missing.png"]}', "inputs"),
    ],
)
def test_a_broken_job_json_fails_its_job_alone_and_says_why(
    service: Service, submit_job: SubmitJob, text: str, field: str | None
) -> None:
    id, next_id = submit_job(), submit_job(num_inference_steps=10)
    (service.spool.incoming / id / "job.json").write_text(text)
    service.work(engine="quick")
    failure = wait_failed(service, id)
    assert (failure["code"], failure.get("field")) == ("invalid_request", field)
    assert (field or "job.json") in failure["message"]
    assert "Traceback" not in (service.spool.failed / id / "error.txt").read_text()
    wait_done(service, next_id)


def test_a_picture_that_its_format_cannot_hold_is_the_client_s_failure(
    service: Service, submit_job: SubmitJob
) -> None:
    ids = [submit_job() for _ in range(4)]
    service.work(engine="unencodable")
    for id in ids:
        failure = wait_failed(service, id)
        assert (failure["code"], failure["field"]) == ("invalid_request", "output_format")
        assert "Traceback" not in (service.spool.failed / id / "error.txt").read_text()
    assert wait_status(service, jobs_failed=4)["state"] == "ready"


def test_a_success_between_failures_keeps_the_worker_at_work(
    service: Service, submit_job: SubmitJob, tmp_path: Path
) -> None:
    large = make_picture(
        tmp_path / "large.png", (2000, 1500)
    )  # it is still being saved when the next job fails
    good = EditRequest(prompt="sepia", num_inference_steps=10, n=2)
    submit_job(prompt="raise")
    submit_job(prompt="raise")
    submit(service.spool, [large], good, max_pixels=10**8)
    submit_job(prompt="raise")
    last = submit_job(num_inference_steps=10)
    service.work(engine="raises_in_edit")
    wait_done(service, last)
    wait_status(service, state="ready", jobs_done=2, jobs_failed=3)


def test_a_broken_engine_gives_its_job_back_and_ends_the_worker(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job()
    worker = service.start(sys.executable, STUB_ENGINES, "broken_in_edit", "0")
    assert worker.wait(20) not in (0, 78)
    assert "the device is lost" in service.read_log()
    job = service.spool.incoming / id
    assert [path.name for path in JobFolder(job).attempts()] == [
        "attempt-1.json"
    ]  # the job may be what breaks it
    assert not status_file(service).exists()
    service.work(engine="quick")
    assert wait_done(service, id)["attempt"] == 2


# --- stopping -------------------------------------------------------------------------------------


def test_a_stop_lets_the_job_finish_that_fits_into_the_drain_time(
    service: Service, submit_job: SubmitJob
) -> None:
    id, next_id = submit_job(num_inference_steps=30), submit_job()
    worker = service.work(engine="slow")
    wait_at_work(service, id)
    assert end(worker) == 0
    assert is_done(service, id)
    assert len(JobFolder(service.spool.done / id).attempts()) == 1
    assert os.listdir(service.spool.incoming) == [next_id]


def test_a_stop_gives_the_job_back_that_does_not_fit(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(num_inference_steps=100)
    worker = service.work(engine="slow", drain_seconds="0.1")
    wait_at_work(service, id)
    assert end(worker) == 0
    assert sorted(os.listdir(service.spool.incoming / id)) == ["input.jpg", "job.json"]
    assert not status_file(service).exists()


def test_a_second_stop_gives_the_job_back_at_once(service: Service, submit_job: SubmitJob) -> None:
    id = submit_job(num_inference_steps=100)
    worker = service.work(engine="slow", drain_seconds="3600")
    wait_at_work(service, id)
    worker.send_signal(signal.SIGTERM)
    seen = step_of(service.spool, id)
    wait_at_work(service, id, step=seen + 4)  # it has seen the first one, and goes on
    assert end(worker) == 0
    assert sorted(os.listdir(service.spool.incoming / id)) == ["input.jpg", "job.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_when_told_to(service: Service, number: signal.Signals) -> None:
    worker = service.work(engine="slow")
    assert end(worker, number) == 0
    assert "gpu0 stopped: 0 jobs done, 0 failed" in service.read_log()


# --- dying ----------------------------------------------------------------------------------------


def test_restarted_worker_runs_the_job_it_was_killed_in(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(num_inference_steps=40)
    worker = service.work(engine="slow")
    wait_at_work(service, id)
    assert end(worker, signal.SIGKILL) == -signal.SIGKILL
    assert os.listdir(service.spool.running / GPU0) == [id]
    assert not list_workers(service.spool, lease=60)[0].alive
    service.work(engine="quick")
    assert wait_done(service, id)["attempt"] == 2
    assert len(JobFolder(service.spool.done / id).attempts()) == 2


def test_a_result_that_was_recorded_is_never_made_again(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(num_inference_steps=10)
    worker = service.work(engine="quick")
    wait_done(service, id)
    assert end(worker, signal.SIGKILL) == -signal.SIGKILL
    # As if it had died between its record and the last rename.
    os.rename(service.spool.done / id, service.spool.running / GPU0 / id)
    record = (service.spool.running / GPU0 / id / "result.json").read_bytes()
    service.work(engine="quick")
    wait_done(service, id)
    assert (service.spool.done / id / "result.json").read_bytes() == record


def test_job_that_kills_its_workers_fails_and_the_next_is_done(
    service: Service, submit_job: SubmitJob
) -> None:
    id, next_id = submit_job(prompt="kill"), submit_job(num_inference_steps=10)
    command = (sys.executable, STUB_ENGINES, "killed_in_edit", "0", "--burst")
    codes = [service.start(*command, max_attempts="2").wait(20) for _ in range(3)]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    failure = wait_failed(service, id)
    assert (failure["code"], failure["attempt"], failure["worker"]) == ("crashed", 2, GPU0)
    assert len(JobFolder(service.spool.failed / id).attempts()) == 2
    assert "died" in (service.spool.failed / id / "error.txt").read_text()
    wait_done(service, next_id)


def test_another_worker_takes_over_what_a_killed_one_held(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job(num_inference_steps=100)
    worker = service.work("0", engine="slow")
    wait_at_work(service, id)
    worker.send_signal(signal.SIGSTOP)  # one that is slow is not dead
    service.work("1", engine="quick")
    assert os.listdir(service.spool.running / GPU0) == [id]
    assert end(worker, signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: is_done(service, id), seconds=30)
    result = wait_done(service, id)
    assert (result["worker"], result["attempt"]) == (worker_name("gpu1"), 2)
    assert os.listdir(service.spool.running / GPU0) == []


def test_second_worker_of_one_name_waits_and_names_the_first(
    service: Service, submit_job: SubmitJob
) -> None:
    first = service.work(engine="quick")
    second = service.start(sys.executable, STUB_ENGINES, "quick", "0")
    wait_until(lambda: f"{GPU0} runs as process {first.pid}" in service.read_log())
    assert read(status_file(service))["pid"] == first.pid
    assert end(first, signal.SIGKILL) == -signal.SIGKILL
    wait_status(service, pid=second.pid, state="ready")
    wait_done(service, submit_job(num_inference_steps=10))
    third = service.start(sys.executable, STUB_ENGINES, "quick", "0")
    wait_until(lambda: f"as process {second.pid}" in service.read_log())
    assert end(third) == 0  # also while it waits
    assert read(status_file(service))["pid"] == second.pid


# --- systemd --------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, service: Service) -> Iterator[socket.socket]:
    """What systemd listens on, as a file or in Linux's abstract name space."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        address = f"{folder}/notify" if request.param == "path" else f"@i2ii-{secrets.token_hex(8)}"
        manager.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        manager.settimeout(20)
        service.environment["NOTIFY_SOCKET"] = address
        yield manager


def test_systemd_hears_how_the_worker_is(
    service: Service, submit_job: SubmitJob, manager: socket.socket
) -> None:
    heard: list[str] = []

    def hear(word: str) -> None:
        while not heard or word not in heard[-1]:
            heard.append(manager.recv(4096).decode())

    worker = service.start(sys.executable, STUB_ENGINES, "slow", "0")
    hear("READY=1")
    assert "STATUS=loading" in heard[0]
    id = submit_job(num_inference_steps=40)
    hear(f"STATUS=job {id}, step ")
    assert "WATCHDOG=1" in heard[-1].splitlines()
    hear("of 40")  # fed by the engine's steps, so that a hung one is noticed
    assert "WATCHDOG=1" in heard[-1].splitlines()
    worker.terminate()
    hear("STOPPING=1")
    hear("STATUS=stopping, 1 done, 0 failed")
    assert worker.wait(20) == 0


def test_worker_beats_while_it_compiles(
    service: Service, submit_job: SubmitJob, manager: socket.socket
) -> None:
    id = submit_job(num_inference_steps=10)
    service.start(sys.executable, STUB_ENGINES, "compiles", "0")
    heard = ""
    while heard.count("STATUS=compiling for") < 2:
        heard += manager.recv(4096).decode() + "\n"
    assert "WATCHDOG=1" in heard.partition("STATUS=compiling for")[2]
    (service.spool.root.parent / "compiled").touch()
    wait_done(service, id)


# --- which GPU ------------------------------------------------------------------------------------

UUID = "8f3a1b2c-0d1e-2f30-4152-637485960718"


def test_the_gpu_chosen_is_named_by_worker_and_result(
    service: Service, submit_job: SubmitJob
) -> None:
    service.environment["CUDA_VISIBLE_DEVICES"] = f"3,GPU-{UUID}"
    service.work("1", engine="quick")
    result = wait_done(service, submit_job(num_inference_steps=10))
    assert (result["worker"], result["gpu_id"]) == (worker_name("gpu-8f3a1b2c"), f"GPU-{UUID}")
    status = wait_status(service, worker_name("gpu-8f3a1b2c"))
    assert status["gpu_id"] == f"GPU-{UUID}"


def test_missing_gpu_exits_without_a_restart(service: Service) -> None:
    service.environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "I2II_ENGINE": "classic"}
    refused = cli(service, "gpu", "2", check=False)
    assert refused.returncode == 78
    assert refused.stderr.splitlines() == [
        "i2ii: GPU 2 not found: CUDA_VISIBLE_DEVICES=0,1 has 2, counted from 0"
    ]
