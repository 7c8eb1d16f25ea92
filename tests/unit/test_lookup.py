"""Finding and listing jobs, and deleting the oldest."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from i2ii_spool.errors import Deleted, NotFound
from i2ii_spool.jobs.ids import age_of, is_id, new_id
from i2ii_spool.spool import lookup
from i2ii_spool.spool.actions import delete_job
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import list_workers
from i2ii_spool.spool.lookup import count, find, list_jobs
from i2ii_spool.spool.recovery import Reaper
from i2ii_spool.spool.retention import RetentionPolicy, prune, sweep
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import Submission
from tests.support.jobs import SubmitJob, claim_next, claims_of, finish, names_in


def test_unknown_id_is_not_found(spool: Spool) -> None:
    with pytest.raises(NotFound):
        find(spool, new_id())


def test_a_deleted_job_and_an_unknown_one_are_told_without_a_listing(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100 000 jobs a listing takes a tenth of a second."""
    id = submit_job()
    finish(claim_next(spool))
    delete_job(spool, id)
    scandir = os.scandir

    def scan_only_the_workers(path: Path) -> Iterator[os.DirEntry[str]]:
        assert path == spool.running, f"{path} is listed"
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan_only_the_workers)
        patch.setattr(os, "listdir", scan_only_the_workers)
        with pytest.raises(Deleted):
            find(spool, id)
        with pytest.raises(NotFound):
            find(spool, new_id())


def test_a_job_that_a_network_file_system_does_not_show_is_found_in_a_listing(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.is_on_network = True
    with pytest.raises(NotFound):
        find(spool, new_id())
    monkeypatch.setattr(lookup, "_is_there", lambda _spool, _folder: False)
    id = submit_job()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1)
    assert find(spool, id).state is State.INCOMING


def test_moving_job_is_always_found(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claims = claims_of(spool)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lambda: [find(spool, id) for _ in range(1500)])
        while not looking.done():
            claims.backlog.hint(id)
            claim = claims.next()
            assert claim is not None
            claim.release(uncount_attempt=True)
        assert len(looking.result()) == 1500


def test_a_list_is_newest_first_and_continues_without_gaps(
    spool: Spool, submit_job: SubmitJob
) -> None:
    ids = [submit_job() for _ in range(7)]
    finish(claim_next(spool))
    first = [place.id for place in list_jobs(spool, limit=4)]
    rest = [place.id for place in list_jobs(spool, limit=4, after=first[-1])]
    assert first + rest == ids[::-1]
    assert [place.id for place in list_jobs(spool, State.DONE)] == ids[:1]


def test_a_folder_that_has_long_been_the_same_is_listed_once(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit_job() for _ in range(5)]
    os.utime(spool.incoming, (0, 0))
    newest = [place.id for place in list_jobs(spool, State.INCOMING)]
    monkeypatch.setattr(os, "listdir", lambda _: [])
    assert [place.id for place in list_jobs(spool, State.INCOMING)] == newest == ids[::-1]
    following = list_jobs(spool, State.INCOMING, limit=2, after=ids[3])
    assert [place.id for place in following] == [ids[2], ids[1]]


def test_a_list_shows_what_came_since_the_last(spool: Spool, submit_job: SubmitJob) -> None:
    for _ in range(20):
        os.utime(spool.incoming, (0, 0))
        list_jobs(spool)
        for _ in range(3):
            id = submit_job()
            assert list_jobs(spool)[0].id == id


def ended_jobs(spool: Spool, submit_job: SubmitJob, ages: list[float]) -> list[str]:
    ids = []
    for age in ages:
        ids.append(submit_job())
        finish(claim_next(spool))
        ended = time.time() - age
        os.utime(spool.done / ids[-1] / "result.json", (ended, ended))
    return ids


def test_retention_deletes_the_longest_ended_jobs_first(
    spool: Spool, submit_job: SubmitJob
) -> None:
    newest, oldest, middle = ended_jobs(spool, submit_job, [10, 300, 100])
    waits, runs = submit_job(), submit_job()
    assert claim_next(spool).id == waits
    assert prune(spool, RetentionPolicy()) == []
    assert prune(spool, RetentionPolicy(age=200)) == [oldest]
    assert prune(spool, RetentionPolicy(jobs=1)) == [middle]
    assert prune(spool, RetentionPolicy(free=2**62)) == [newest]
    assert {find(spool, waits).state, find(spool, runs).state} == {State.RUNNING, State.INCOMING}


def test_stale_submissions_are_swept_and_live_ones_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = Submission(spool)
    Path(submission.add_file()).touch()
    sweep(spool)
    assert names_in(spool.staging) == [submission.id]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3700)
    sweep(spool)
    assert names_in(spool.staging) == []


def test_nothing_is_older_when_the_clock_jumps(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ended,) = ended_jobs(spool, submit_job, [0])
    submission = Submission(spool)
    Path(submission.add_file()).touch()
    for folder, name in ((spool.keys, "ab" * 32), (spool.trash, f"{new_id()}.gone")):
        (folder / name).touch()
    before = [names_in(folder) for folder in (spool.staging, spool.keys, spool.trash)]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 400 * 86400)

    assert prune(spool, RetentionPolicy(age=30 * 86400)) == []

    assert [names_in(folder) for folder in (spool.staging, spool.keys, spool.trash)] == before
    assert find(spool, ended).state is State.DONE


@pytest.mark.parametrize("day", ["20260231", "20261301", "20260001", "00000000", "20260100"])
def test_the_age_of_an_id_that_is_no_date_can_be_told_or_it_is_none(day: str) -> None:
    id = f"{day}-101530-482-k7m2qf"
    assert not is_id(id) or age_of(id) >= 0


ANOTHER = 65534


def as_another_user(act: Callable[[], object]) -> None:
    """Call a function in a child process that has no rights of root; it must raise nothing."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(ANOTHER)
            os.setuid(ANOTHER)
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_one_closed_entry_hides_no_other_job(spool: Spool, submit_job: SubmitJob) -> None:
    closed, running, done = submit_job(), submit_job(), submit_job()
    claim_next(spool, "sick.gpu0")
    claim_next(spool)
    finish(claim_next(spool))
    spool.root.parent.chmod(0o755)
    for path in (spool.root, *spool.root.rglob("*")):
        os.chown(path, ANOTHER, ANOTHER)
    (spool.workers / "sick.gpu0.json").touch()
    for path in (
        spool.running / "sick.gpu0",
        spool.workers / "sick.gpu0.json",
        spool.done / done / "job.json",
    ):
        os.chown(path, 0, 0)
        path.chmod(0o700)

    def look() -> None:
        assert [job.id for job in list_jobs(spool)] == [done, running]
        assert count(spool)[State.RUNNING] == 1
        assert read_status(spool, running).status == "running"
        assert read_status(spool, done).prompt is None
        assert list_workers(spool, lease=60) == []
        Reaper(spool, max_attempts=3, lease=60).run_once()
        with pytest.raises(NotFound):
            find(spool, closed)
        assert find(spool, running).state is State.INCOMING

    as_another_user(look)
