"""Jobs that move between two hosts: each is done once, and each host sees at once where it is."""

import json
import logging
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from i2ii_spool.errors import IdempotencyKeyReused
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.retention import sweep
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import submit
from tests.support.chaos import places
from tests.support.hosts import SharedFolder
from tests.support.jobs import claim_next, claims_of, finish, names_in
from tests.support.promises import submit_one
from tests.support.seams import lost_rename_reply
from tests.support.service import wait_until
from tests.support.uml import count_calls, forget_all

H1, H2 = "h1.gpu0", "h2.gpu0"
Spools = tuple[Spool, Spool]


def test_a_job_of_one_host_is_done_by_the_other(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    claim = claim_next(there, H2)
    assert (claim.id, claim.attempt) == (id, 1)
    finish(claim)
    assert list(places(here)) == [("done", id)]
    assert (find(here, id).folder / "result.png").read_bytes() == b"a picture"


# --- races ----------------------------------------------------------------------------------------


def claim_all(spool: Spool, worker: str, start: threading.Barrier, claimed: list[str]) -> None:
    """What one of the racing processes does."""
    claims = claims_of(spool, worker)
    start.wait()
    while (claim := claims.next()) is not None:
        claimed.append(claim.id)
        finish(claim)


def test_each_job_is_claimed_once_by_four_processes_on_each_host(spools: Spools) -> None:
    ids = [submit_one(spools[number % 2]) for number in range(40)]
    fork = multiprocessing.get_context("fork")
    with fork.Manager() as manager:
        start, claimed = manager.Barrier(8), manager.list()
        racers = [
            fork.Process(target=claim_all, args=(spool, f"h{host}.gpu{number}", start, claimed))
            for host, spool in enumerate(spools, 1)
            for number in range(4)
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert [racer.exitcode for racer in racers] == [0] * 8
        assert sorted(claimed) == sorted(ids)
        assert len({claim_of(spools[0], id) for id in ids}) > 1, "it was no race"
    for spool in spools:
        assert sorted(places(spool)) == [("done", id) for id in sorted(ids)]


def claim_of(spool: Spool, id: str) -> str:
    """The host that has done the job."""
    worker: str = json.loads((spool.done / id / "result.json").read_text())["worker"]
    return worker.partition(".")[0]


def test_one_key_is_one_job_on_both_hosts(spools: Spools) -> None:
    for key in map(str, range(10)):
        start = threading.Barrier(4)

        def send(spool: Spool, key: str = key, start: threading.Barrier = start) -> str:
            start.wait()
            return submit_one(spool, key=key)

        with ThreadPoolExecutor(4) as pool:
            ids = set(pool.map(send, spools * 2))
        assert len(ids) == 1
        assert {submit_one(spool, key=key) for spool in spools} == ids
        with pytest.raises(IdempotencyKeyReused):
            submit_one(spools[1], key=key, with_mask=True)
    assert len(os.listdir(spools[1].incoming)) == 10


# --- what one host does is seen on the other ------------------------------------------------------


def test_the_submitting_host_sees_each_state_at_once(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    assert find(here, id).state is State.INCOMING
    claim = claim_next(there, H2)
    assert (find(here, id).state, find(here, id).worker) == (State.RUNNING, H2)
    finish(claim)
    assert find(here, id).state is State.DONE


def test_a_job_that_has_moved_is_found_while_this_host_renames(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    ended = threading.Event()

    def rename_on_and_on() -> None:
        one, other = there.staging / "x", there.thumbnails / "x"
        one.mkdir()
        while not ended.is_set():
            one.rename(other)
            one, other = other, one

    with ThreadPoolExecutor() as pool:
        renaming = pool.submit(rename_on_and_on)
        try:
            for state in [State.FAILED, State.INCOMING] * 30:
                location = find(there, id)
                os.rename(here.root / location.state / id, here.root / state / id)
                assert find(there, id).state == state
                assert read_status(there, id).request_id == id
        finally:
            ended.set()
        renaming.result()


def test_a_job_that_goes_back_to_the_queue_is_seen_at_once(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    assert find(here, id).state is State.INCOMING
    claim = claim_next(there, H2)
    assert find(here, id).state is State.RUNNING
    claim.release(uncount_attempt=True)
    assert find(here, id).state is State.INCOMING
    actions.cancel(there, id)
    assert find(here, id).state is State.FAILED
    actions.retry(there, id)
    assert find(here, id).state is State.INCOMING


def test_a_cancel_on_one_host_is_seen_by_a_worker_of_the_other(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    claim = claim_next(here, H1)
    assert not claim.is_cancelled()
    actions.cancel(there, id)
    wait_until(claim.is_cancelled, seconds=10)


def test_a_cancelled_job_is_retried_on_the_other_host(spools: Spools) -> None:
    here, there = spools
    id = submit_one(here)
    actions.cancel(there, id)
    actions.retry(here, id)
    claim = claim_next(there, H2)
    assert (claim.id, claim.attempt, claim.is_cancelled()) == (id, 1, False)
    finish(claim)
    assert names_in(find(here, id).folder) == [
        *("attempt-1.json", "input.png", "job.json", "result.json", "result.png")
    ]


def test_a_guest_of_one_host_is_admitted_on_the_other(spools: Spools, picture: Path) -> None:
    here, there = spools
    admission = Admission(there, settle=0.1, patience=60, max_bytes=10**7, max_pixels=10**7)
    guest = here.incoming / "wedding"
    guest.mkdir()
    (guest / "prompt.txt").write_text("sepia")
    (guest / "photo.jpg").write_bytes(picture.read_bytes())
    (id,) = wait_until(admission.run_once)
    assert is_id(id)
    assert id.endswith("_wedding")
    claim = claim_next(here, H1)
    assert (claim.id, claim.job().prompt) == (id, "sepia")


# --- what is removed while it is open -------------------------------------------------------------


def test_a_job_that_is_deleted_during_a_download_goes_without_a_warning(
    spools: Spools, caplog: pytest.LogCaptureFixture
) -> None:
    here, _ = spools
    id = submit_one(here)
    finish(claim_next(here, H1))
    with (here.done / id / "result.png").open("rb") as download:
        actions.delete_job(here, id)
        sweep(here)
        left = list((here.trash / id).glob("*"))
        assert all(path.name.startswith(".nfs") for path in left)  # on NFS; else nothing is left
        assert download.read() == b"a picture"
    sweep(here)
    assert os.listdir(here.trash) == [f"{id}.gone"]
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_a_picture_that_was_removed_while_it_was_open_is_no_part_of_a_guest(
    spools: Spools, picture: Path
) -> None:
    here, there = spools
    admission = Admission(here, settle=0, patience=0, max_bytes=10**7, max_pixels=10**7)
    guest = here.incoming / "wedding"
    guest.mkdir()
    (guest / "prompt.txt").write_text("sepia")
    for name in ("photo.jpg", "old.jpg"):
        (guest / name).write_bytes(picture.read_bytes())
    with (guest / "old.jpg").open("rb"):
        (guest / "old.jpg").unlink()
        (id,) = admission.run_once()
    assert claim_next(there, H2).job().inputs == ("photo.jpg",)
    assert id.endswith("_wedding")


# --- a lost reply ---------------------------------------------------------------------------------


def test_claim_whose_reply_is_lost_is_a_claim_though_the_host_has_cached_its_absence(
    spools: Spools,
) -> None:
    here, there = spools
    claims = claims_of(here, H1)
    id = submit_one(here)
    held = claim_next(there, H2)
    assert not (here.running / H1 / id).exists()  # as a look-up asks, before it looks at h2
    held.release(uncount_attempt=True)

    def serve(source: Path, target: Path) -> None:
        os.rename(*(there.root / path.relative_to(here.root) for path in (source, target)))

    with lost_rename_reply(id, serve):
        claim = claims.next()
    assert claim is not None
    assert claim.id == id
    finish(claim)
    assert list(places(there)) == [("done", id)]


# --- what it costs --------------------------------------------------------------------------------


def test_a_look_at_guests_costs_no_more_calls_the_more_jobs_wait(
    shared: SharedFolder, spools: Spools, picture: Path
) -> None:
    if shared.kind != "nfs":
        pytest.skip("the calls of NFS are counted")
    here, there = spools
    admission = Admission(there, settle=5, patience=60, max_bytes=10**7, max_pixels=10**7)

    def calls_of_a_look() -> int:
        assert admission.run_once() == []  # once, it looks into each
        forget_all()
        before = count_calls(shared.hosts[1].path)
        assert admission.run_once() == []
        return count_calls(shared.hosts[1].path) - before

    counts = {}
    for jobs in (5, 200):
        while len(os.listdir(here.incoming)) < jobs:
            submit(here, [picture], EditRequest(prompt="sepia"), max_pixels=10**7)
        counts[jobs] = calls_of_a_look()
    print(f"\ncalls of a look at guests: {counts}")
    assert counts[200] <= counts[5] + 10
