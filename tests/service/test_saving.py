"""Results are saved while the next job runs: what is shown, what a stop does, and who is to blame
when a result cannot be saved."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from i2ii_spool.jobs.folder import JobFolder
from tests.support.jobs import SubmitJob
from tests.support.service import Service, wait_until
from tests.support.workers import (
    GPU0,
    end,
    read,
    status_file,
    submit_into,
    wait_done,
    wait_failed,
    wait_status,
)


@pytest.fixture
def submit_job(service: Service, picture: Path) -> SubmitJob:
    return partial(submit_into, service, picture)


def attempts(service: Service, id: str) -> int:
    """How many attempts are counted of a job that runs."""
    return len(JobFolder(service.spool.running / GPU0 / id).attempts())


def wait_saving(service: Service, id: str) -> None:
    """Wait until the result is being encoded."""

    def is_saving() -> bool:
        try:
            progress = read(service.spool.running / GPU0 / id / "progress.json")
        except FileNotFoundError:
            return False
        return bool(progress["phase"] == "saving")

    wait_until(is_saving)


def let_it_encode(service: Service) -> None:
    (service.spool.root.parent / "encoded").touch()


def test_a_result_that_is_being_saved_shows_in_the_status(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work(engine="slow_to_encode")
    id = submit_job(prompt="slow", num_inference_steps=10, n=3)
    wait_saving(service, id)
    progress = read(service.spool.running / GPU0 / id / "progress.json")
    assert (progress["step"], progress["steps"]) == (0, 3)
    let_it_encode(service)
    wait_done(service, id)


def test_a_job_is_cancelled_between_the_pictures_of_its_result(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work(engine="slow_to_encode")
    id = submit_job(prompt="slow", num_inference_steps=10, n=2)
    wait_until((service.spool.root.parent / "encoding").exists)  # it has looked for a cancel before
    JobFolder(service.spool.running / GPU0 / id).cancel.touch()
    let_it_encode(service)
    failure = wait_failed(service, id)
    assert (failure["code"], failure["message"]) == (
        "cancelled",
        "cancelled when 1 of 2 results were encoded",
    )


def test_worker_beats_while_a_result_waits_for_one_that_gets_on(
    service: Service, submit_job: SubmitJob
) -> None:
    first = submit_job(prompt="slow", num_inference_steps=10)
    second = submit_job(num_inference_steps=10)
    service.work(engine="slow_to_encode")
    wait_until(lambda: attempts_or_none(service, second) == 0)
    for _ in range(2):
        beat = status_file(service).stat().st_mtime_ns
        wait_until(lambda beat=beat: status_file(service).stat().st_mtime_ns > beat)
    let_it_encode(service)
    assert wait_done(service, first)["attempt"] == 1
    assert wait_done(service, second)["attempt"] == 1


def attempts_or_none(service: Service, id: str) -> int | None:
    """The attempts of a job whose edit has ended and whose result waits."""
    try:
        progress = read(service.spool.running / GPU0 / id / "progress.json")
        return attempts(service, id) if progress["step"] == 10 else None
    except FileNotFoundError:
        return None


def test_a_job_behind_one_whose_result_hangs_is_not_blamed(
    service: Service, submit_job: SubmitJob
) -> None:
    """The worker is silent while the result hangs, and is killed for that, each time."""
    poisoned = submit_job(prompt="stuck", num_inference_steps=10)
    innocent = submit_job(num_inference_steps=10)
    for attempt in (1, 2, 3):
        worker = service.work(engine="slow_to_encode")
        wait_saving(service, poisoned)
        if attempt == 1:
            wait_until(lambda: attempts_or_none(service, innocent) == 0)
        assert end(worker, signal.SIGKILL) == -signal.SIGKILL
    service.work(engine="slow_to_encode")
    assert wait_failed(service, poisoned)["code"] == "crashed"
    assert wait_done(service, innocent)["attempt"] == 1


def test_a_job_that_died_before_runs_alone(service: Service, submit_job: SubmitJob) -> None:
    first = submit_job(prompt="slow", num_inference_steps=10)
    worker = service.work(engine="slow_to_encode")
    wait_saving(service, first)
    end(worker, signal.SIGKILL)
    second = submit_job(num_inference_steps=10)
    service.work(engine="slow_to_encode")
    wait_saving(service, first)
    for _ in range(2):  # the worker is alive, and had time to claim
        beat = status_file(service).stat().st_mtime_ns
        wait_until(lambda beat=beat: status_file(service).stat().st_mtime_ns > beat)
    assert os.listdir(service.spool.incoming) == [second]
    let_it_encode(service)
    assert wait_done(service, first)["attempt"] == 2
    wait_done(service, second)


@pytest.mark.parametrize("prompt", ["slow", "stuck"])
def test_a_stop_releases_what_is_not_saved_in_time(
    service: Service, submit_job: SubmitJob, prompt: str
) -> None:
    worker = service.work(engine="slow_to_encode", drain_seconds="0")
    id = submit_job(prompt=prompt, num_inference_steps=10)
    wait_saving(service, id)
    behind = submit_job(num_inference_steps=10)
    wait_until(lambda: attempts_or_none(service, behind) == 0)
    assert end(worker) == 0
    assert JobFolder(service.spool.incoming / id).attempts() == []
    service.work(engine="quick")
    assert wait_done(service, id)["attempt"] == 1
    assert wait_done(service, behind)["attempt"] == 1


def test_a_stop_waits_for_a_result_that_is_saved_in_time(
    service: Service, submit_job: SubmitJob
) -> None:
    worker = service.work(engine="slow_to_encode", drain_seconds="20")
    id = submit_job(prompt="slow", num_inference_steps=10)
    wait_saving(service, id)
    worker.terminate()
    wait_status(service, state="stopping")
    let_it_encode(service)
    assert worker.wait(20) == 0
    wait_done(service, id)


# --- blame ----------------------------------------------------------------------------------------


def test_jobs_that_fail_do_not_pause_a_worker_that_is_well(
    service: Service, submit_job: SubmitJob
) -> None:
    ids = [submit_job(prompt="raise") for _ in range(6)]
    good = submit_job()
    service.work(engine="raises_in_edit")
    wait_done(service, good)
    assert all(wait_failed(service, id)["code"] == "engine_error" for id in ids)
    assert service.read_log().count("the jobs are at fault") == 2
    assert wait_status(service, jobs_failed=6)["state"] == "ready"


def test_worker_whose_self_test_fails_pauses_until_it_succeeds(
    service: Service, submit_job: SubmitJob
) -> None:
    ids = [submit_job() for _ in range(3)]
    service.work(engine="sick")
    for id in ids:
        wait_failed(service, id)
    status = wait_status(service, state="degraded", job=None)
    assert "the last 3 jobs failed, and so does a self-test: out of tune" in status["note"]
    waiting = submit_job()
    for _ in range(2):  # the worker is alive, and had time to claim
        beat = status_file(service).stat().st_mtime_ns
        wait_until(lambda beat=beat: status_file(service).stat().st_mtime_ns > beat)
    assert os.listdir(service.spool.incoming) == [waiting]
    (service.spool.root.parent / "well").touch()
    wait_done(service, waiting)
    assert wait_status(service, job=None, jobs_done=1)["note"] == ""


def test_an_edit_that_takes_too_long_fails_alone(service: Service, submit_job: SubmitJob) -> None:
    long, short = submit_job(num_inference_steps=100), submit_job(num_inference_steps=10)
    service.work(engine="slow", job_timeout_seconds="1.5")
    failure = wait_failed(service, long)
    assert failure["code"] == "job_too_slow"
    assert "job_timeout_seconds" in failure["message"]
    wait_done(service, short)
