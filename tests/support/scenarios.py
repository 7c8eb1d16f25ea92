"""Scenarios: what may happen to a job, each with one point from which it may be interrupted.

    running = begin("admit", spool, promised)          # what comes before `yield` is durable
    end(running, RecordingDisk(spool.root, meet))      # what comes after may be interrupted
    check(spool, promised)                             # of tests.support.promises

A scenario writes into `promised` what must hold after the service has started again.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from unittest import mock

from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.folder import JOB, PROMPT
from i2ii_spool.jobs.records import Progress
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool import actions, durable_io, retention, thumbnails
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.submit import Submission
from tests.support import promises
from tests.support.jobs import result_of
from tests.support.promises import (
    MAX_ATTEMPTS,
    OUTPUT,
    PICTURE,
    WORKER,
    Promises,
    commit,
    start_worker,
    write_upload,
)
from tests.support.recording_disk import RecordingDisk

Scenario = Callable[[Spool, Promises], Iterator[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def begin(name: str, spool: Spool, promised: Promises) -> Iterator[None]:
    """Run a scenario up to its `yield`."""
    spool.create()
    going = SCENARIOS[name](spool, promised)
    next(going)
    return going


def end(going: Iterator[None], disk: RecordingDisk) -> None:
    """Run the rest, with `disk` between it and the kernel."""
    with disk:
        for _ in going:
            raise AssertionError("a scenario has one yield")


def submit_one(
    spool: Spool, promised: Promises, *, key: str | None = None, with_mask: bool = False
) -> str:
    id = promises.submit_one(spool, key=key, with_mask=with_mask)
    promised.end(id, "done")
    return id


def claim_one(spool: Spool) -> Claim:
    start_worker(spool)
    claim = Claims(spool, WORKER, max_attempts=MAX_ATTEMPTS).next()
    assert claim is not None
    return claim


def fail(spool: Spool, promised: Promises) -> str:
    """Bring a job into `failed/`."""
    id = submit_one(spool, promised)
    claim_one(spool).fail(EngineError("it cannot be done"))
    promised.end(id, "failed:engine_error")
    return id


@scenario
def make_a_spool(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    made = Spool(spool.root / "srv" / "pictures" / "spool")
    made.create()
    id = promises.submit_one(made)
    promised.stay(f"srv/pictures/spool/incoming/{id}/{JOB}")
    promised.stay("srv/pictures/spool/format")


# --- in -------------------------------------------------------------------------------------------


@scenario
def submit(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    submit_one(spool, promised)


@scenario
def submit_with_a_mask(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    submit_one(spool, promised, with_mask=True)


@scenario
def submit_with_a_key(spool: Spool, promised: Promises) -> Iterator[None]:
    promised.send_again("order 17")
    yield
    id = submit_one(spool, promised, key="order 17")
    assert submit_one(spool, promised, key="order 17") == id


@scenario
def submit_again_with_the_key_of_a_dead_submitter(
    spool: Spool, promised: Promises
) -> Iterator[None]:
    id = submit_one(spool, promised, key="order 17")
    (spool.incoming / id).rename(spool.staging / id)
    promised.forget(id)
    promised.send_again("order 17")
    yield
    assert submit_one(spool, promised, key="order 17") == id


@scenario
def refuse_an_upload(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    submission = Submission(spool)
    write_upload(submission.add_file(), PICTURE)
    submission.discard()
    promised.count(0)


def put_guest(spool: Spool, name: str, *, prompt: str | None) -> None:
    """Do what a copy does, which syncs nothing."""
    folder = spool.incoming / name
    os.mkdir(folder)
    write_upload(f"{folder}/photo.png", PICTURE)
    if prompt is not None:
        write_upload(f"{folder}/{PROMPT}", prompt.encode())


def admission_of(spool: Spool) -> Admission:
    return Admission(spool, settle=0, patience=0, max_bytes=10**6, max_pixels=10**6)


@scenario
def admit(spool: Spool, promised: Promises) -> Iterator[None]:
    put_guest(spool, "holiday", prompt="sepia")
    promised.end("holiday", "done")
    yield
    assert admission_of(spool).run_once()


@scenario
def admit_what_has_just_been_copied(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    put_guest(spool, "holiday", prompt="sepia")
    (id,) = admission_of(spool).run_once()
    promised.end(id, "done")


@scenario
def admit_what_came_with_a_request(spool: Spool, promised: Promises) -> Iterator[None]:
    yield
    put_guest(spool, "holiday", prompt=None)
    write_upload(f"{spool.incoming}/holiday/{JOB}", Job(prompt="sepia").to_json())
    (id,) = admission_of(spool).run_once()
    promised.end(id, "done")


@scenario
def refuse(spool: Spool, promised: Promises) -> Iterator[None]:
    put_guest(spool, "nonsense", prompt=None)
    promised.end("nonsense", "failed:invalid_request")
    yield
    admission_of(spool).run_once()
    assert not list(spool.incoming.iterdir())


# --- through --------------------------------------------------------------------------------------


@scenario
def claim_and_commit(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    yield
    claim = claim_one(spool)
    promised.count_attempts(id, 1)
    claim.report(Progress(phase="edit", step=1, steps=10))
    commit(claim)
    promised.finished(id)


@scenario
def wait_uncounted_and_commit(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    yield
    claim = claim_one(spool)
    claim.uncount()
    claim.count()
    commit(claim)
    promised.finished(id)


def submit_with_a_result_of_the_user(spool: Spool, promised: Promises) -> str:
    """Submit a job; a `result.png` of the user is in its folder."""
    id = submit_one(spool, promised)
    durable_io.write_file(spool.incoming / id / "result.png", PICTURE)
    promised.keep(id, "result.png")
    return id


@scenario
def commit_beside_a_result_of_the_user(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_with_a_result_of_the_user(spool, promised)
    yield
    commit(claim_one(spool))
    promised.finished(id)


@scenario
def retry_beside_a_result_of_the_user(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_with_a_result_of_the_user(spool, promised)
    commit(claim_one(spool))
    (spool.done / id).rename(spool.incoming / id)
    yield
    claim = claim_one(spool)
    claim.save("result-2.png", OUTPUT)
    promised.end(id, "done", "failed:engine_error")
    claim.fail(EngineError("the second picture cannot be encoded"))
    promised.end(id, "failed:engine_error")


@scenario
def recover_a_save_beside_a_result_of_the_user(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_with_a_result_of_the_user(spool, promised)
    claim_one(spool).save("result-2.png", OUTPUT)
    promised.begun(id, 1)
    yield
    recovered(spool)
    claim = claim_one(spool)
    claim.save("result-2.png", OUTPUT)
    claim.release(uncount_attempt=True)


@scenario
def claim_and_fail(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    promised.end(id, "done", "failed:engine_error")
    yield
    claim_one(spool).fail(EngineError("it cannot be done"))
    promised.end(id, "failed:engine_error")


@scenario
def claim_and_give_back(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    yield
    claim_one(spool).release(uncount_attempt=True)
    promised.count_attempts(id, 0)
    assert (spool.incoming / id).is_dir()


@scenario
def claim_for_the_last_time(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    for _ in range(MAX_ATTEMPTS - 1):
        claim_one(spool).release(uncount_attempt=False)
    promised.begun(id, MAX_ATTEMPTS - 1)
    promised.end(id, "done", "failed:crashed")
    yield
    claim = claim_one(spool)
    promised.begun(id, MAX_ATTEMPTS)
    commit(claim)
    promised.finished(id)


@scenario
def claim_what_was_begun_too_often(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    for _ in range(MAX_ATTEMPTS):
        claim_one(spool).release(uncount_attempt=False)
    promised.begun(id, MAX_ATTEMPTS)
    promised.end(id, "failed:crashed")
    yield
    assert Claims(spool, WORKER, max_attempts=MAX_ATTEMPTS).next() is None


# --- what clients and operators do ----------------------------------------------------------------


@scenario
def cancel_what_waits(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    promised.end(id, "done", "failed", "failed:cancelled")
    yield
    actions.cancel(spool, id)
    promised.end(id, "failed:cancelled")


@scenario
def cancel_what_runs(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    claim_one(spool)
    promised.begun(id, 1)
    promised.end(id, "done", "failed:cancelled")
    yield
    actions.cancel(spool, id)
    promised.end(id, "failed:cancelled")


@scenario
def retry_and_claim(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    promised.end(id, "done", "failed:engine_error")
    yield
    actions.retry(spool, id)
    promised.end(id, "done")
    commit(claim_one(spool))
    promised.finished(id)


@scenario
def finish_what_was_retried(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    actions.retry(spool, id)
    promised.end(id, "done")
    yield
    claim = claim_one(spool)
    claim.save("result.png", OUTPUT)
    with (
        suppress(InterruptedError),
        mock.patch("i2ii_spool.spool.claim.leave", side_effect=InterruptedError),
    ):
        claim.commit(result_of(claim))  # dies when the result counts, and before it is moved
    promised.finished(id)


THUMBNAIL = b"RIFF\4\0\0\0WEBP"


def thumbnail(id: str, n: int, *, version: str = "a1-b2") -> thumbnails.Thumbnail:
    return thumbnails.Thumbnail(id, "input", n, 480, version)


@scenario
def remove(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    promised.end(id, "failed:engine_error", "gone")
    yield
    actions.delete_job(spool, id)
    promised.end(id, "gone")


@scenario
def remove_with_its_thumbnails(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    for n in (1, 2):
        thumbnails.keep(spool, thumbnail(id, n), THUMBNAIL, min_free=0)
    promised.end(id, "failed:engine_error", "gone")
    yield
    actions.delete_job(spool, id)
    promised.end(id, "gone")


@scenario
def keep_a_thumbnail_of_a_new_version(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    promised.end(id, "failed:engine_error")
    thumbnails.keep(spool, thumbnail(id, 1, version="1-2"), THUMBNAIL, min_free=0)
    yield
    thumbnails.keep(spool, thumbnail(id, 1), THUMBNAIL, min_free=0)


@scenario
def prune(spool: Spool, promised: Promises) -> Iterator[None]:
    ids = [fail(spool, promised) for _ in range(2)]
    for id in ids:
        promised.end(id, "failed:engine_error", "gone")
    yield
    retention.prune(spool, retention.RetentionPolicy(jobs=0))
    for id in ids:
        promised.end(id, "gone")


@scenario
def sweep_what_a_deletion_left(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    (spool.failed / id).rename(spool.trash / id)
    promised.end(id, "gone")
    yield
    retention.sweep(spool)


# --- recovery -------------------------------------------------------------------------------------


def recovered(spool: Spool) -> None:
    recover(spool, WORKER, max_attempts=MAX_ATTEMPTS)


@scenario
def recover_what_was_begun(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    claim_one(spool).report(Progress(phase="edit", step=1, steps=10))
    promised.begun(id, 1)
    yield
    recovered(spool)


@scenario
def recover_what_was_finished(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    commit(claim_one(spool))
    (spool.done / id).rename(spool.running / WORKER / id)
    promised.finished(id)
    yield
    recovered(spool)


@scenario
def recover_what_was_finished_and_not_yet_synced(
    spool: Spool, promised: Promises
) -> Iterator[None]:
    id = submit_one(spool, promised)
    yield
    claim = claim_one(spool)
    claim.save("result.png", OUTPUT)
    with (
        suppress(InterruptedError),
        mock.patch.object(durable_io, "sync_folder", side_effect=InterruptedError),
    ):
        claim.commit(result_of(claim))  # dies before that
    recovered(spool)
    promised.finished(id)


@scenario
def recover_what_had_failed(spool: Spool, promised: Promises) -> Iterator[None]:
    id = fail(spool, promised)
    (spool.failed / id).rename(spool.running / WORKER / id)
    yield
    recovered(spool)


@scenario
def recover_what_was_cancelled(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    claim_one(spool)
    actions.cancel(spool, id)
    promised.end(id, "failed:cancelled")
    yield
    recovered(spool)


@scenario
def recover_what_was_begun_too_often(spool: Spool, promised: Promises) -> Iterator[None]:
    id = submit_one(spool, promised)
    for _ in range(MAX_ATTEMPTS - 1):
        claim_one(spool).release(uncount_attempt=False)
    claim_one(spool)
    promised.begun(id, MAX_ATTEMPTS)
    promised.end(id, "failed:crashed")
    yield
    recovered(spool)


@scenario
def recover_a_guest_in_running(spool: Spool, promised: Promises) -> Iterator[None]:
    put_guest(spool, "stray", prompt="sepia")
    start_worker(spool)
    (spool.incoming / "stray").rename(spool.running / WORKER / "stray")
    promised.end("stray", "done")
    yield
    recovered(spool)


@scenario
def finish_what_there_already_is(spool: Spool, promised: Promises) -> Iterator[None]:
    """An operator copied a job under its own id, and both copies end: both results stay."""
    id = submit_one(spool, promised)
    shutil.copytree(spool.incoming / id, spool.root / "copy")
    commit(claim_one(spool))
    (spool.root / "copy").rename(spool.incoming / id)
    claim = claim_one(spool)
    time.sleep(0.002)  # or the second ending would bear the first one's id
    promised.copy(id)
    promised.count(2)
    yield
    commit(claim)
