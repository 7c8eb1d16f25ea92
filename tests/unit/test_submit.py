"""Submitting a job: what is in its folder, what is refused, and one key for one job."""

import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.errors import (
    DiskFull,
    EngineError,
    InvalidRequest,
    QueueFull,
    SpoolUnusable,
    WrongState,
)
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, layout, retention
from i2ii_spool.spool.capacity import check_disk, check_queue
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerLock
from i2ii_spool.spool.lookup import queued_ids
from i2ii_spool.spool.submit import Submission, submit
from tests.support.jobs import ME, SubmitJob, claim_next, names_in
from tests.support.seams import dying_before_publish


def test_a_submitted_job_lies_whole_in_incoming(
    spool: Spool, submit_job: SubmitJob, picture: Path
) -> None:
    id = submit_job(prompt="水彩", seed=7)
    folder = spool.incoming / id
    assert names_in(folder) == ["input.jpg", "job.json"]
    assert (folder / "input.jpg").read_bytes() == picture.read_bytes()
    assert json.loads((folder / "job.json").read_text())["prompt"] == "水彩"
    assert names_in(spool.staging) == []


def test_job_folder_is_readable_by_its_group_only(spool: Spool, submit_job: SubmitJob) -> None:
    folder = spool.incoming / submit_job()
    assert folder.stat().st_mode & 0o7777 == 0o2770
    assert not any(
        path.stat().st_mode & 0o007 for path in [spool.root, *spool.root.rglob("job.json")]
    )


def test_files_are_readable_by_their_group_whatever_the_umask(
    spool: Spool, submit_job: SubmitJob
) -> None:
    before = os.umask(0o077)
    try:
        id = submit_job()
        claim = claim_next(spool)
        claim.save("result.png", b"a picture")
        actions.cancel(spool, id)
        with WorkerLock.take(spool, ME) or pytest.fail("the lock is taken"):
            claim.fail(EngineError("x"))
    finally:
        os.umask(before)
    files = [path for path in spool.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert {path.stat().st_mode & 0o777 for path in files} == {0o660}


def test_a_job_that_is_being_published_is_not_discarded(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler of a stopping server is cancelled, and its thread goes on."""
    submission = Submission(spool)
    Path(submission.add_file()).write_bytes(picture.read_bytes())
    is_publishing, may_publish = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        is_publishing.set()
        may_publish.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with ThreadPoolExecutor(2) as pool:
        published = pool.submit(submission.publish, EditRequest(prompt="a"), max_pixels=10**6)
        assert is_publishing.wait(10)
        discarded = pool.submit(submission.discard)
        may_publish.set()
        discarded.result(10)
        id = published.result(10)
    assert names_in(spool.incoming / id) == ["input.jpg", "job.json"]


def test_a_job_that_another_publishes_is_not_discarded(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = Submission(spool)
    Path(submission.add_file()).write_bytes(picture.read_bytes())
    with dying_before_publish(), pytest.raises(KeyboardInterrupt):
        submission.publish(EditRequest(prompt="sepia", name="n"), max_pixels=10**6, key="a")
    rename = os.rename

    def rename_after_the_other(source: Any, target: Any, **folders: int) -> None:
        monkeypatch.setattr(os, "rename", rename)
        submit_with_key(spool, picture, "a")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", rename_after_the_other)
    submission.discard()
    (id,) = queued_ids(spool)
    assert names_in(spool.incoming / id) == ["input.jpg", "job.json"]


def test_a_refused_picture_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    with pytest.raises(InvalidRequest):
        submit(spool, [tmp_path / "words.txt"], EditRequest(prompt="a"), max_pixels=10**6)
    assert names_in(spool.incoming) == names_in(spool.staging) == []


@pytest.mark.parametrize("pictures", [0, 11])
def test_a_job_has_one_to_ten_pictures(spool: Spool, picture: Path, pictures: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        submit(spool, [picture] * pictures, EditRequest(prompt="a"), max_pixels=10**6)
    assert refused.value.field == "image"


def test_a_failed_fsync_is_reported_and_never_retried(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="I/O error"):
        submit_job()
    assert len(calls) == 1
    assert names_in(spool.incoming) == []


def test_full_queue_error_has_retry_after() -> None:
    check_queue(9, max_queue=10, seconds_between_completions=4.0)
    with pytest.raises(QueueFull) as full:
        check_queue(12, max_queue=10, seconds_between_completions=4.0)
    assert full.value.retry_after == 12  # three jobs must go before a place is free


def test_submit_is_refused_below_the_free_space_floor(spool: Spool) -> None:
    with pytest.raises(DiskFull, match="i2ii gc"):
        check_disk(spool, min_free=2**62)


def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnusable, match="I2II_SPOOL"):
        Spool(tmp_path / "file" / "spool").create()


def test_a_spool_that_is_being_created_has_no_incoming_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    create_folder = layout.create_folder

    def observed(folder: Path) -> None:
        assert not spool.incoming.exists()
        create_folder(folder)

    monkeypatch.setattr(layout, "create_folder", observed)
    spool.create()
    assert all(folder.is_dir() for folder in spool.folders())


def test_a_jobs_name_stands_behind_its_id(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job(name="wedding 042/é")
    assert id.endswith("_wedding-042")
    assert queued_ids(spool) == [id]


def submit_with_key(spool: Spool, picture: Path, key: str, prompt: str = "sepia") -> str:
    submission = Submission(spool)
    Path(submission.add_file()).write_bytes(picture.read_bytes())
    return submission.publish(EditRequest(prompt=prompt, name="n"), max_pixels=10**6, key=key)


def test_one_key_makes_one_job(spool: Spool, picture: Path) -> None:
    first = submit_with_key(spool, picture, "a")
    assert submit_with_key(spool, picture, "a") == first
    assert submit_with_key(spool, picture, "b") != first
    assert len(queued_ids(spool)) == 2
    assert names_in(spool.staging) == []


def test_many_at_once_with_one_key_make_one_job(spool: Spool, picture: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: submit_with_key(spool, picture, "a"), range(40)))
    assert list(ids) == queued_ids(spool)


def test_a_key_is_not_for_another_request(spool: Spool, picture: Path) -> None:
    submit_with_key(spool, picture, "a")
    with pytest.raises(WrongState, match="another request"):
        submit_with_key(spool, picture, "a", prompt="blur")


def test_submit_with_the_key_completes_that_of_a_dead_submitter(
    spool: Spool, picture: Path
) -> None:
    with dying_before_publish(), pytest.raises(KeyboardInterrupt):
        submit_with_key(spool, picture, "a")
    (begun,) = names_in(spool.staging)
    assert submit_with_key(spool, picture, "a") == f"{begun}_n"
    assert queued_ids(spool) == [f"{begun}_n"]


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_key_is_remembered_as_long_as_its_job_waits(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    id = submit_with_key(spool, picture, "a")
    if has_ended:
        claim_next(spool).fail(EngineError("no paint"))
    now = time.time() + 30 * 86400
    monkeypatch.setattr("i2ii_spool.spool.retention._now", lambda: now)
    retention.sweep(spool)
    assert (submit_with_key(spool, picture, "a") == id) is not has_ended
