"""`i2ii gpu`, `ls`, `show`, `cancel`, `retry` and `rm`."""

import json
from pathlib import Path

import pytest

from tests.support import UNKNOWN_ID
from tests.support.cli import fail_one, run_by_hand, run_in, the_error
from tests.support.jobs import SubmitJob, names_in
from tests.support.service import Service, cli, wait_until


def test_a_worker_works_where_nvidia_smi_may_not_be_run(
    service: Service, submit_job: SubmitJob, tmp_path: Path
) -> None:
    id = submit_job()
    (tmp_path / "nvidia-smi").write_text("only its owner may run it")

    run_in(tmp_path, service, "gpu", "0", "--burst", PATH=str(tmp_path))

    assert names_in(service.spool.done) == [id]


def test_ls_shows_the_newest_first_with_state_and_prompt(
    service: Service, submit_job: SubmitJob
) -> None:
    first, second = submit_job(prompt="sepia"), submit_job(prompt="a\nb")

    lines = [line.split() for line in cli(service, "ls").stdout.splitlines()]

    assert lines == [
        [second, "queued", "position", "2", "a", "b"],
        [first, "queued", "position", "1", "sepia"],
    ]
    assert cli(service, "ls", "-n", "1").stdout.split()[0] == second


def test_ls_of_a_state_shows_its_jobs_alone(
    service: Service, picture: Path, submit_job: SubmitJob
) -> None:
    done = submit_job()
    failed = fail_one(service, picture)
    waiting = submit_job()

    def ids(*arguments: str) -> list[str]:
        return [line.split()[0] for line in cli(service, "ls", *arguments).stdout.splitlines()]

    assert ids() == [waiting, failed, done]
    assert ids("incoming") == [waiting]
    assert ids("running") == []
    assert ids("done") == [done]
    assert ids("failed") == [failed]


def test_ls_as_json_is_one_object_per_line(service: Service, submit_job: SubmitJob) -> None:
    ids = [submit_job(prompt="水彩\n画"), submit_job()]

    shown = [json.loads(line) for line in cli(service, "ls", "--json").stdout.splitlines()]

    assert [(job["request_id"], job["status"]) for job in shown] == [
        (ids[1], "queued"),
        (ids[0], "queued"),
    ]
    assert shown[1]["prompt"] == "水彩\n画"


def test_ls_of_no_state_names_the_states(service: Service) -> None:
    assert "incoming, running, done, failed" in the_error(
        cli(service, "ls", "finished", check=False)
    )


def test_show_tells_of_a_finished_job(service: Service, submit_job: SubmitJob) -> None:
    id = submit_job(seed=7)
    cli(service, "gpu", "0", "--burst")

    shown = json.loads(cli(service, "show", id, "--json").stdout)

    assert (shown["request_id"], shown["status"], shown["seed"]) == (id, "completed", 7)
    assert (shown["outputs"], shown["width"], shown["height"]) == (["result.png"], 64, 48)
    lines = dict(line.split(maxsplit=1) for line in cli(service, "show", id).stdout.splitlines())
    assert (lines["request_id:"], lines["status:"], lines["prompt:"]) == (id, "completed", "sepia")


def test_show_tells_why_a_job_failed(service: Service, picture: Path) -> None:
    id = fail_one(service, picture)

    shown = json.loads(cli(service, "show", id, "--json").stdout)

    assert shown["status"] == "failed"
    assert "watercolour" in shown["error"]["message"]


def test_cancel_of_waiting_jobs_moves_them_to_failed(
    service: Service, submit_job: SubmitJob
) -> None:
    ids = [submit_job(), submit_job()]

    answer = cli(service, "cancel", *ids)

    assert answer.stdout.splitlines() == [f"{id} cancelled" for id in ids]
    assert names_in(service.spool.incoming) == []
    assert names_in(service.spool.failed) == ids
    assert json.loads(cli(service, "show", ids[0], "--json").stdout)["status"] == "cancelled"


def test_cancel_of_a_running_job_stops_it_between_steps(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work(engine="slow")
    id = submit_job(num_inference_steps=100)
    wait_until(lambda: list(service.spool.running.glob(f"*/{id}")))

    assert cli(service, "cancel", id).stdout == f"{id} stops at its next step\n"

    wait_until((service.spool.failed / id).is_dir)
    assert json.loads(cli(service, "show", id, "--json").stdout)["status"] == "cancelled"


def test_retry_sends_a_failed_job_back_to_the_queue(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job()
    cli(service, "cancel", id)

    assert cli(service, "retry", id).stdout == f"{id} queued\n"

    assert names_in(service.spool.incoming) == [id]
    cli(service, "gpu", "0", "--burst")
    assert names_in(service.spool.done) == [id]


def test_rm_deletes_for_good_and_show_remembers_that_it_did(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job()
    cli(service, "cancel", id)

    assert cli(service, "rm", id).stdout == f"{id} deleted\n"

    assert names_in(service.spool.failed) == []
    assert not (service.spool.trash / id).exists()
    assert "deleted" in the_error(cli(service, "show", id, check=False))


@pytest.mark.parametrize(
    ("command", "id"),
    [
        ("show", UNKNOWN_ID),
        ("cancel", UNKNOWN_ID),
        ("retry", UNKNOWN_ID),
        ("rm", UNKNOWN_ID),
        ("show", "nonsense"),
        ("rm", "../../etc/passwd"),
    ],
)
def test_a_wrong_id_is_named(service: Service, command: str, id: str) -> None:
    assert id in the_error(cli(service, command, id, check=False))


def test_what_a_jobs_state_does_not_allow_is_refused(
    service: Service, submit_job: SubmitJob
) -> None:
    waiting, done = submit_job(), submit_job()
    (service.spool.incoming / done).rename(service.spool.done / done)

    for command, id, state in (
        ("retry", waiting, "incoming"),
        ("rm", waiting, "incoming"),
        ("cancel", done, "done"),
    ):
        error = the_error(cli(service, command, id, check=False))
        assert id in error
        assert state in error
    assert (names_in(service.spool.incoming), names_in(service.spool.done)) == ([waiting], [done])


def test_what_a_running_jobs_state_does_not_allow_is_refused(
    service: Service, submit_job: SubmitJob
) -> None:
    running = run_by_hand(service.spool, submit_job())

    for command in ("retry", "rm"):
        assert "running" in the_error(cli(service, command, running, check=False))


@pytest.mark.parametrize("command", ["ls", "show", "cancel", "retry", "rm", "gc", "submit"])
def test_a_missing_spool_is_named_with_the_cure(
    service: Service, picture: Path, tmp_path: Path, command: str
) -> None:
    arguments = {"ls": [], "gc": [], "submit": [str(picture), "-p", "sepia"]}.get(
        command, [UNKNOWN_ID]
    )
    missing = tmp_path / "nowhere"

    error = the_error(cli(service, command, *arguments, "--spool", str(missing), check=False))

    assert str(missing) in error
    assert "i2ii up" in error
    assert not missing.exists()
