"""Job folders retried, cancelled and watched with `mv`, `cp`, `touch` and `ls`."""

import json
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name
from tests.support.guests import assert_edited, ending, ls, make_guest, shell, tree
from tests.support.jobs import SubmitJob
from tests.support.service import Service, cli, wait_until

pytestmark = pytest.mark.xdist_group("jobs_by_hand")  # one service for the file


@pytest.fixture
def failed_job(live: Service, picture: Path) -> str:
    """The id of a job whose instruction is unknown."""
    id = cli(live, "submit", str(picture), "-p", "qwertyuiop").stdout.strip()
    wait_until((live.spool.failed / id).is_dir)
    return id


def test_error_txt_explains(live: Service, failed_job: str) -> None:
    said = shell("cat", live.spool.failed / failed_job / "error.txt")

    error = json.loads((live.spool.failed / failed_job / "error.json").read_text())
    assert said.startswith(f"{error['code']}: {error['message']}")
    assert "watercolour" in said


def test_failed_job_moved_back_runs_again_from_the_start(service: Service, picture: Path) -> None:
    worker = service.work(engine="raises_in_edit")
    id = cli(service, "submit", str(picture), "-p", "raise").stdout.strip()
    failed = service.spool.failed / id
    wait_until(failed.is_dir)
    assert {"attempt-1.json", "error.json", "error.txt"} <= set(ls(failed))
    worker.kill()
    worker.wait()
    shell("mv", failed, service.spool.incoming)
    assert ls(service.spool.incoming) == [id]

    service.work("1", engine="quick")

    done = service.spool.done / id
    wait_until(done.is_dir)
    assert [name for name in ls(done) if name.startswith(("error", "attempt"))] == [
        "attempt-1.json"
    ]
    assert json.loads((done / "attempt-1.json").read_text())["worker"] == worker_name("gpu1")
    assert json.loads((done / "result.json").read_text())["attempt"] == 1
    assert not failed.exists()


def test_a_failed_job_copied_under_another_name_runs_as_a_new_job(
    live: Service, failed_job: str
) -> None:
    failed = live.spool.failed / failed_job
    before = tree(failed)

    shell("cp", "-r", failed, live.spool.incoming / "again")

    again = ending(live.spool, "again")
    assert again.parent == live.spool.failed  # it is no better than the first time
    assert again.name > failed_job
    assert [name for name in ls(again) if name.startswith("attempt")] == ["attempt-1.json"]
    assert (again / "error.json").read_bytes() != (failed / "error.json").read_bytes()
    assert tree(failed) == before


def test_a_done_job_moved_back_is_edited_again(live: Service, picture: Path) -> None:
    id = cli(live, "submit", str(picture), "-p", "sepia").stdout.strip()
    done = live.spool.done / id
    wait_until(done.is_dir)
    first = json.loads((done / "result.json").read_text())

    shell("mv", done, live.spool.incoming)

    wait_until((done / "result.json").exists)
    second = json.loads((done / "result.json").read_text())
    assert second["completed_at"] > first["completed_at"]
    assert second["attempt"] == 1
    assert id not in ls(live.spool.incoming)
    assert_edited(done, "input.jpg")


def where(spool: Spool, id: str) -> list[str]:
    """Every place in which `ls` shows the job."""
    places = [spool.incoming, spool.done, spool.failed, *spool.running.iterdir()]
    return [str(place.relative_to(spool.root)) for place in places if id in ls(place)]


def test_ls_shows_a_job_in_the_one_place_where_it_is(
    service: Service, submit_job: SubmitJob
) -> None:
    first, second = submit_job(num_inference_steps=20), submit_job(num_inference_steps=10)
    assert ls(service.spool.incoming) == [first, second]

    service.work(engine="slow")

    mine = f"running/{worker_name('gpu0')}"
    wait_until(lambda: (service.spool.root / mine / first / "progress.json").exists())
    assert (where(service.spool, first), where(service.spool, second)) == ([mine], ["incoming"])
    wait_until((service.spool.done / second).is_dir)
    assert (where(service.spool, first), where(service.spool, second)) == (["done"], ["done"])


def test_touching_cancel_stops_a_running_and_a_waiting_job(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work(engine="slow")
    running, waiting = submit_job(num_inference_steps=100), submit_job()
    [folder] = wait_until(lambda: list(service.spool.running.glob(f"*/{running}")))
    assert ls(service.spool.incoming) == [waiting]

    shell("touch", service.spool.incoming / waiting / "cancel")
    shell("touch", folder / "cancel")

    for id in (running, waiting):
        wait_until((service.spool.failed / id).is_dir)
        assert shell("cat", service.spool.failed / id / "error.txt").startswith("cancelled: ")
        assert not list((service.spool.failed / id).glob("result*"))
    assert ls(service.spool.done) == []


def test_cancelled_job_moved_back_runs_unless_cancelled_again(
    service: Service, submit_job: SubmitJob
) -> None:
    wanted, unwanted = submit_job(), submit_job()
    for id in (wanted, unwanted):
        assert cli(service, "cancel", id).returncode == 0
        assert "cancel" in ls(service.spool.failed / id)
        shell("mv", service.spool.failed / id, service.spool.incoming)
    shell("touch", service.spool.incoming / unwanted / "cancel")

    service.work()

    wait_until((service.spool.done / wanted / "result.json").exists)
    assert "cancel" not in ls(service.spool.done / wanted)
    wait_until((service.spool.failed / unwanted / "error.json").exists)
    assert shell("cat", service.spool.failed / unwanted / "error.txt").startswith("cancelled: ")


def test_a_folder_put_among_what_runs_becomes_a_guest(service: Service, tmp_path: Path) -> None:
    mine = service.spool.running / worker_name("gpu0")
    mine.mkdir()
    shell("mv", make_guest(tmp_path / "misplaced", "photo.jpg", prompt="sepia"), mine)

    service.work()

    assert_edited(ending(service.spool, "misplaced"), "photo.jpg")
    assert ls(mine) == []
