"""The whole protocol against a model of it: whatever is done in whatever order, each call does what
it was asked to, or raises the error of the state in which the job is."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from i2ii_spool.errors import ClaimLost, Deleted, EngineError, NotFound, WrongState
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import without_name
from i2ii_spool.jobs.records import Progress
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import count, find, queued_ids
from i2ii_spool.spool.outputs import output_names
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.retention import RetentionPolicy, prune, sweep
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import Submission
from tests.support.jobs import result_of
from tests.support.promises import OUTPUT, PICTURE, commit, write_upload

MAX_ATTEMPTS = 3
NEAR_NAMES = (
    *("results-2024.png", "result.png", "result-2.png", "result-9.jpg", "result-10.png"),
    *("result", "result-notes.txt", "result.json.txt", "attempt-one.json", "attempts.txt"),
    *("error.txt.png", "error-1.json", "progress.json~", ".hidden", "._result.png", "input.png"),
)
"""Names that a user may give to files, near those that i2ii gives, or the same."""
WORKERS = ("here.gpu0", "here.gpu1", "there.gpu0")
INCOMING, RUNNING, DONE, FAILED = State


@dataclass
class Known:
    """What the model knows of a job."""

    state: State | None = INCOMING
    """None: it is no more."""
    worker: str | None = None
    attempts: int = 0
    wish: bool = False
    """Somebody has asked for it to stop."""
    is_remembered: bool = True
    """That it was there, once it is no more."""
    code: str = ""
    """Of its failure."""
    is_guest: bool = False
    """One that was refused: it has no `job.json`."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What the user has put into the folder, none of which anybody may change."""


def has(*states: State | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule for when there is a job in one of the states."""
    return precondition(lambda self: bool(self.ids(*states)))


class SpoolMachine(RuleBasedStateMachine):
    """Several workers, HTTP clients and operators at the shell, on one spool."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder / "spool")
        self.no_fsync = mock.patch.object(os, "fsync")
        self.no_fsync.start()
        self.spool.create()
        self.jobs: dict[str, Known] = {}
        self.keys: dict[str, str] = {}
        self.held: list[Claim] = []
        self.ghosts: list[Claim] = []
        """Claims of workers that were taken for dead, and do not know it."""
        self.claims = {worker: self.start(worker) for worker in WORKERS}
        self.guests = 0
        self.admission = Admission(
            self.spool, settle=0, patience=0, max_bytes=10**6, max_pixels=10**6
        )

    def teardown(self) -> None:
        self.no_fsync.stop()
        shutil.rmtree(self.folder)

    # --- what the model knows ---------------------------------------------------------------------

    def start(self, worker: str) -> Claims:
        self.spool.create_worker(worker)
        return Claims(self.spool, worker, max_attempts=MAX_ATTEMPTS)

    def ids(self, *states: State | None) -> list[str]:
        return sorted(id for id, known in self.jobs.items() if known.state in states)

    def pick(self, data: st.DataObject, *states: State | None) -> str:
        return data.draw(st.sampled_from(self.ids(*states)))

    def fail(self, id: str, code: str) -> None:
        self.jobs[id].state, self.jobs[id].worker, self.jobs[id].code = FAILED, None, code

    def reset_for_retry(self, known: Known) -> None:
        if known.code or known.state is DONE:
            known.attempts, known.wish, known.code = 0, False, ""

    # --- in ---------------------------------------------------------------------------------------

    @rule(key=st.sampled_from([None, "a", "b"]))
    def submit(self, key: str | None) -> None:
        submission = Submission(self.spool)
        write_upload(submission.add_file(), PICTURE)
        id = submission.publish(EditRequest(prompt="sepia"), max_pixels=10**6, key=key)
        if key is not None and key in self.keys and self.jobs[self.keys[key]].state is not None:
            assert id == self.keys[key]
            return
        assert id not in self.jobs
        self.jobs[id] = Known()
        if key is not None:
            self.keys[key] = id

    @rule(names=st.sets(st.sampled_from(NEAR_NAMES), max_size=4))
    def put_a_guest(self, names: set[str]) -> None:
        self.guests += 1
        folder = self.spool.incoming / f"guest {self.guests}"
        files = self.fill(folder, names | {"photo.png"})
        request = {"prompt": "sepia", "inputs": ["photo.png"]}
        (JobFolder(folder).job).write_text(json.dumps(request))
        (id,) = self.admission.run_once()
        assert id.endswith(f"_guest-{self.guests}")
        self.jobs[id] = Known(files=files)

    def fill(self, folder: Path, names: set[str]) -> dict[str, bytes]:
        folder.mkdir()
        # A hidden file with a picture would be one that is being copied.
        files = {name: b"words" if name.startswith(".") else PICTURE for name in names}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return files

    @rule(names=st.sets(st.sampled_from(NEAR_NAMES), max_size=4))
    def put_a_guest_that_is_wrong(self, names: set[str]) -> None:
        self.be_refused(self.fill(self.spool.incoming / "wrong", names))

    def be_refused(self, files: dict[str, bytes]) -> None:
        before = set(os.listdir(self.spool.failed))
        assert self.admission.run_once() == []
        (id,) = set(os.listdir(self.spool.failed)) - before
        self.jobs[id] = Known(state=FAILED, code="invalid_request", is_guest=True, files=files)

    def move_back(self, id: str) -> None:
        """It is in `incoming/` again: a job that is to run once more, or a guest that is still
        wrong."""
        if not self.jobs[id].is_guest:
            self.jobs[id].state = INCOMING
            return
        self.jobs[id].state, self.jobs[id].is_remembered = None, False
        self.be_refused(self.jobs[id].files)

    # --- workers ----------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), looks=st.booleans())
    def claim(self, worker: str, looks: bool) -> None:
        claims = self.claims[worker]
        if looks:
            claims.backlog.scan()
        possible = self.ids(INCOMING)
        claim = claims.next()
        for id in possible:
            known = self.jobs[id]
            if (self.spool.incoming / id).exists():
                assert not looks or claim is not None, "there was a job, and it was not claimed"
                continue
            self.reset_for_retry(known)
            if known.wish:
                self.fail(id, "cancelled")
            elif known.attempts >= MAX_ATTEMPTS:
                self.fail(id, "crashed")
            else:
                assert claim is not None
                assert claim.id == id
                known.state, known.worker, known.attempts = RUNNING, worker, known.attempts + 1
        if claim is not None:
            assert not looks or claim.id == next(
                id for id in possible if self.jobs[id].state is RUNNING
            ), "out of turn"
            assert claim.attempt == self.jobs[claim.id].attempts
            self.held.append(claim)
            self.ghosts = [ghost for ghost in self.ghosts if ghost.folder != claim.folder]

    def take(self, data: st.DataObject) -> Claim:
        claim = data.draw(st.sampled_from(self.held), label="claim")
        self.held.remove(claim)
        return claim

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.held))
        claim.report(Progress(phase="edit", step=3, steps=10))
        assert claim.is_cancelled() == self.jobs[claim.id].wish
        assert read_status(self.spool, claim.id).step == 3

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        claim = self.take(data)
        (name,) = output_names(1, "png", taken=claim.kept)
        claim.save(name, OUTPUT)
        claim.commit(result_of(claim, name))
        known = self.jobs[claim.id]
        known.state, known.worker = DONE, None

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def save_and_die(self, data: st.DataObject) -> None:
        """The worker has written its picture, and is killed before the commit."""
        claim = data.draw(st.sampled_from(self.held))
        claim.save(*output_names(1, "png", taken=claim.kept), OUTPUT)
        self.die_and_be_recovered(claim.folder.parent.name, wakes=False)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail_to_edit(self, data: st.DataObject) -> None:
        claim = self.take(data)
        claim.fail(EngineError("it cannot be done"))
        self.fail(claim.id, "engine_error")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), forget=st.booleans())
    def release(self, data: st.DataObject, forget: bool) -> None:
        claim = self.take(data)
        claim.release(uncount_attempt=forget)
        known = self.jobs[claim.id]
        known.state, known.worker, known.attempts = INCOMING, None, known.attempts - forget

    @rule(worker=st.sampled_from(WORKERS), wakes=st.booleans())
    def die_and_be_recovered(self, worker: str, wakes: bool) -> None:
        """The worker is killed, or only stopped: then it `wakes`, and does not know what has become
        of its jobs."""
        gone = [claim for claim in self.held if claim.folder.parent.name == worker]
        self.held = [claim for claim in self.held if claim not in gone]
        if wakes:
            self.ghosts += gone
        recover(self.spool, worker, max_attempts=MAX_ATTEMPTS)
        for id in self.ids(RUNNING):
            known = self.jobs[id]
            if known.worker != worker:
                continue
            if known.wish:
                self.fail(id, "cancelled")
            elif known.attempts >= MAX_ATTEMPTS:
                self.fail(id, "crashed")
            else:
                known.state, known.worker = INCOMING, None

    @precondition(lambda self: self.ghosts)
    @rule(data=st.data(), what=st.sampled_from(["report", "save", "commit", "fail", "release"]))
    def wake_after_the_job_was_taken(self, data: st.DataObject, what: str) -> None:
        ghost = data.draw(st.sampled_from(self.ghosts))
        calls = {
            "report": lambda: ghost.report(Progress(phase="edit", step=4, steps=10)),
            "save": lambda: ghost.save("result.png", OUTPUT),
            "commit": lambda: commit(ghost),
            "fail": lambda: ghost.fail(EngineError("it cannot be done")),
            "release": lambda: ghost.release(uncount_attempt=True),
        }
        with pytest.raises(ClaimLost):
            calls[what]()

    # --- clients ----------------------------------------------------------------------------------

    @has(INCOMING, RUNNING, DONE, FAILED)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = self.pick(data, INCOMING, RUNNING, DONE, FAILED)
        known = self.jobs[id]
        if known.state in (DONE, FAILED):
            with pytest.raises(WrongState, match=f"is in {known.state}"):
                actions.cancel(self.spool, id)
            return
        assert actions.cancel(self.spool, id) is (FAILED if known.state is INCOMING else RUNNING)
        known.wish = True
        if known.state is INCOMING:
            self.fail(id, "cancelled")

    @has(INCOMING, RUNNING, DONE, FAILED)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        id = self.pick(data, INCOMING, RUNNING, DONE, FAILED)
        known = self.jobs[id]
        if known.state is not FAILED:
            with pytest.raises(WrongState, match=f"is in {known.state}"):
                actions.retry(self.spool, id)
            return
        actions.retry(self.spool, id)
        self.move_back(id)

    @has(INCOMING, RUNNING, DONE, FAILED)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        id = self.pick(data, INCOMING, RUNNING, DONE, FAILED)
        known = self.jobs[id]
        if known.state in (INCOMING, RUNNING):
            with pytest.raises(WrongState, match="cancel it first"):
                actions.delete_job(self.spool, id)
            return
        actions.delete_job(self.spool, id)
        known.state = None

    @has(None)
    @rule(
        data=st.data(),
        act=st.sampled_from([actions.cancel, actions.retry, actions.delete_job, read_status]),
    )
    def act_on_what_is_no_more(self, data: st.DataObject, act) -> None:  # type: ignore[no-untyped-def]
        id = self.pick(data, None)
        with pytest.raises(Deleted if self.jobs[id].is_remembered else NotFound) as raised:
            act(self.spool, id)
        assert isinstance(raised.value, Deleted) == self.jobs[id].is_remembered

    @rule(keep=st.integers(0, 3))
    def prune(self, keep: int) -> None:
        ended = self.ids(DONE, FAILED)
        removed = prune(self.spool, RetentionPolicy(jobs=keep))
        assert len(removed) == max(0, len(ended) - keep)
        for id in removed:
            assert self.jobs[id].state in (DONE, FAILED)
            self.jobs[id].state = None

    @rule()
    def sweep(self) -> None:
        sweep(self.spool)

    # --- operators at the shell -------------------------------------------------------------------

    @has(DONE, FAILED)
    @rule(data=st.data())
    def move_back_by_hand(self, data: st.DataObject) -> None:
        id = self.pick(data, DONE, FAILED)
        known = self.jobs[id]
        (self.spool.root / str(known.state) / id).rename(self.spool.incoming / id)
        known.code = known.code or "done"  # until it is claimed, and its first run forgotten
        self.move_back(id)

    @has(RUNNING)
    @rule(data=st.data())
    def touch_cancel(self, data: st.DataObject) -> None:
        id = self.pick(data, RUNNING)
        JobFolder(self.spool.running / str(self.jobs[id].worker) / id).cancel.touch()
        self.jobs[id].wish = True

    @has(DONE, FAILED)
    @rule(data=st.data())
    def remove_by_hand(self, data: st.DataObject) -> None:
        id = self.pick(data, DONE, FAILED)
        shutil.rmtree(self.spool.root / str(self.jobs[id].state) / id)
        self.jobs[id].state, self.jobs[id].is_remembered = None, False

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def every_job_lies_where_the_model_says(self) -> None:
        found = dict.fromkeys(os.listdir(self.spool.incoming), (INCOMING, None))
        found |= {path.name: (RUNNING, path.parent.name) for path in self.spool.running.glob("*/*")}
        found |= {
            id: (state, None)
            for state in (DONE, FAILED)
            for id in os.listdir(self.spool.root / state)
        }
        living = {id: known for id, known in self.jobs.items() if known.state is not None}
        assert found == {id: (known.state, known.worker) for id, known in living.items()}
        assert sum(count(self.spool).values()) == len(living), "in two places"
        assert queued_ids(self.spool) == self.ids(INCOMING)
        for id, known in living.items():
            place = find(self.spool, id)
            assert len(JobFolder(place.folder).attempts()) == known.attempts <= MAX_ATTEMPTS
            self.check_ended(place.folder, known)
            for name, content in known.files.items():
                assert (place.folder / name).read_bytes() == content, "a file of the user"

    def check_ended(self, folder: Path, known: Known) -> None:
        status = read_status(self.spool, folder.name)
        match known.state:
            case State.DONE:
                (output,) = status.outputs or ()
                assert (folder / output).read_bytes() == OUTPUT
            case State.FAILED:
                assert (status.error or {}).get("code") == known.code
                assert (JobFolder(folder).error_text).read_text().startswith(known.code)

    @invariant()
    def nothing_is_parked_where_nobody_looks(self) -> None:
        assert not os.listdir(self.spool.staging)
        marks = {without_name(name.removesuffix(".gone")) for name in os.listdir(self.spool.trash)}
        assert marks <= {without_name(id) for id in self.ids(None)}
        assert not list(self.spool.root.glob("*/*/.*.tmp"))


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
