"""What operators do, and what happens to them, under a real systemd: docs/operations.md promises
it."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.machine import Machine, build_wheel
from tests.support.pictures import make_picture
from tests.support.service import wait_until

I2II = "/opt/i2ii/bin/i2ii"
SPOOL = "/var/lib/i2ii/spool"
ALICE = "setpriv --reuid=alice --regid=alice --init-groups env -C / HOME=/home/alice"
STEP = 0.05


class Box(Machine):
    """A machine with the units installed, and with alice, who is in the group i2ii and has a
    photograph."""

    def prepare(self) -> None:
        self.sh(
            f"ln -s {I2II} /usr/local/bin/i2ii; i2ii units install; useradd --create-home "
            "--groups i2ii alice"
        )
        make_picture(self.path("/home/alice/photo.jpg"))
        self.sh("chmod 644 /home/alice/photo.jpg")

    def use(self, engine: str, unit: str = "i2ii-gpu@", **directives: str) -> None:
        """Have the workers use one of `stub_engines`, with these directives in the unit."""
        lines = [f"{name}={value}" for name, value in directives.items()]
        command = f"/opt/i2ii/bin/python /opt/tests/tests/support/stub_engines.py {engine} %i"
        self.drop_in(f"{unit}.service", "ExecStart=", f"ExecStart={command}", *lines)

    def drop_in(self, unit: str, *lines: str) -> None:
        """Change a unit as `systemctl edit` does."""
        folder = self.path(f"/etc/systemd/system/{unit}.d")
        folder.mkdir()
        (folder / "override.conf").write_text("\n".join(["[Service]", *lines, ""]))
        self.sh("systemctl daemon-reload")

    def set(self, **settings: object) -> None:
        """Change settings in i2ii.env."""
        with self.path("/etc/i2ii/i2ii.env").open("a") as file:
            file.writelines(f"I2II_{name.upper()}={value}\n" for name, value in settings.items())

    def submit(self, prompt: str = "sepia", steps: int = 10) -> str:
        """Submit the photograph as alice; return the id."""
        return self.sh(
            f"{ALICE} {I2II} submit /home/alice/photo.jpg -p '{prompt}' "
            f"--num-inference-steps {steps}"
        ).strip()

    def job(self, id: str) -> dict[str, Any]:
        """What there is to say of a job."""
        shown: dict[str, Any] = json.loads(self.sh(f"cd /; {I2II} show --json {id}"))
        return shown

    def wait(self, id: str, status: str) -> dict[str, Any]:
        """Wait until the job has this status."""
        try:
            wait_until(lambda: self.job(id)["status"] == status, seconds=40)
        except AssertionError:
            print(self.job(id), self.sh("journalctl -n 40 -u 'i2ii-*'"))
            raise
        return self.job(id)

    def wait_step(self, id: str) -> None:
        """Wait until the job has made a step."""
        wait_until(lambda: self.job(id).get("step", 0) > 0)

    def pid(self, unit: str) -> int:
        """The main process of a unit, by its number inside."""
        return int(self.show(unit, "MainPID"))


@pytest.fixture
def box(installed: list[str]) -> Iterator[Box]:
    with Box(installed) as running:
        running.prepare()
        yield running


# --- every day ------------------------------------------------------------------------------------


def test_one_gpu_unit_restarts_while_another_keeps_working(box: Box) -> None:
    box.use("slow")
    box.sh("systemctl start i2ii-gpu@0 i2ii-gpu@1")
    other = box.pid("i2ii-gpu@1")
    for verb in ("stop", "start", "restart"):
        long = [box.submit(steps=40), box.submit(steps=40)]
        box.sh(f"systemctl {verb} i2ii-gpu@0")
        for id in long:
            box.wait(id, "completed")
    assert box.pid("i2ii-gpu@1") == other
    assert box.show("i2ii-gpu@1", "NRestarts") == "0"
    workers = {box.job(id)["worker"] for id in box.sh(f"ls {SPOOL}/done").split()}
    assert workers == {"machine.gpu0", "machine.gpu1"}


def test_status_shows_the_job_and_its_step(box: Box) -> None:
    box.use("slow")
    box.sh("systemctl start i2ii-gpu@0")
    assert "0 done, 0 failed" in box.show("i2ii-gpu@0", "StatusText")
    id = box.submit(steps=100)
    wait_until(
        lambda: re.fullmatch(
            rf"job {id}, step [1-9]\d* of 100", box.show("i2ii-gpu@0", "StatusText")
        )
    )


def test_the_journal_finds_a_job_and_a_worker_by_their_fields(box: Box) -> None:
    box.sh("systemctl start i2ii.target")
    edit = "curl -s -F image=@/home/alice/photo.jpg -F prompt=sepia localhost:8000/edit"
    id = json.loads(box.sh(edit))["request_id"]
    box.wait(id, "completed")
    box.sh("journalctl --sync")
    records = box.journal(f"I2II_JOB={id}")
    said = [
        (record["SYSLOG_IDENTIFIER"], record["MESSAGE"].replace(id, "ID")[:13])
        for record in records
    ]
    # The worker may be faster than the server, which logs once the job is in the queue.
    assert sorted(said) == [
        ("i2ii-gpu0", "job ID claime"),
        ("i2ii-gpu0", "job ID done i"),
        ("i2ii-http", "job ID submit"),
    ]
    actions = sorted(record["I2II_ACTION"] for record in records)
    assert actions == ["claimed", "completed", "submitted"]
    assert {record["_SYSTEMD_UNIT"] for record in records} == {
        "i2ii-http.service",
        "i2ii-gpu@0.service",
    }
    assert {record.get("I2II_WORKER") for record in records} == {None, "machine.gpu0"}
    assert len(box.journal("I2II_WORKER=machine.gpu0", f"I2II_JOB={id}")) == 2


def test_a_failed_job_stands_in_the_journal_as_a_warning(box: Box) -> None:
    box.use("raises_in_edit")
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit("raise")
    box.wait(id, "failed")
    box.sh("journalctl --sync")
    [record] = box.journal("-p", "warning", f"I2II_JOB={id}")
    assert (
        record["MESSAGE"]
        == f"job {id} failed: engine_error: ZeroDivisionError: a bug in the engine"
    )


def test_a_spool_is_moved_with_all_that_is_in_it(box: Box) -> None:
    docs = (ROOT / "docs/operations.md").read_text()
    script = docs.partition("To move it")[2].partition("```sh\n")[2].partition("```")[0]
    box.use("slow")
    box.set(drain_seconds=0)
    box.sh("systemctl start i2ii.target; mkdir /data; mount -t tmpfs tmpfs /data")
    ids = [box.submit(), box.submit(steps=100)]
    box.wait(ids[0], "completed")
    box.wait_step(ids[1])
    box.sh(script)
    assert box.wait(ids[1], "completed")["attempts"] == 1
    assert box.sh("ls /data/i2ii-spool/done").split() == ids


def test_a_restart_of_the_server_drops_no_connection(box: Box) -> None:
    box.sh("systemctl start i2ii.target")
    before = box.pid("i2ii-http")
    script = (
        "for i in $(seq 150); do curl -s -o /dev/null -w '%{http_code}\\n' "
        "localhost:8000/livez || echo refused; done"
    )
    asking = subprocess.Popen(box.command("sh", "-c", script), stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        box.sh("systemctl restart i2ii-http")
    answers = asking.communicate()[0].split()
    assert answers == ["200"] * 150
    assert box.pid("i2ii-http") != before


def test_a_long_poll_does_not_hold_up_a_restart(box: Box) -> None:
    box.sh("systemctl start i2ii-http")
    id = box.submit()  # there is no worker
    poll = subprocess.Popen(
        box.command("curl", "-s", f"localhost:8000/status/{id}?wait=60"),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(
        lambda: (
            "ESTAB"
            in box.sh("ss -tn state established '( sport = 8000 )' | sed 's/^/ESTAB/' | tail -n +2")
        )
    )
    started = time.monotonic()
    box.sh("systemctl restart i2ii-http")
    assert json.loads(poll.communicate()[0])["status"] == "queued"
    assert time.monotonic() - started < 30  # it would have polled for a minute


def test_reload_applies_new_limits_and_keeps_the_old_if_invalid(box: Box) -> None:
    box.sh("systemctl start i2ii-http")
    server = box.pid("i2ii-http")
    box.submit()
    edit = (
        "curl -s -o /dev/null -w '%{http_code}' -F image=@/home/alice/photo.jpg -F "
        "prompt=sepia localhost:8000/edit"
    )
    assert box.sh(edit) == "202"
    box.set(max_queue=1, drain_seconds=7)
    box.sh("systemctl reload i2ii-http")
    wait_until(lambda: "settings read again" in box.sh("journalctl -u i2ii-http"))
    assert box.sh(edit) == "429"
    box.set(max_queue=0)
    box.sh("systemctl reload i2ii-http")
    wait_until(lambda: "the settings stay as they were" in box.sh("journalctl -u i2ii-http"))
    assert box.sh(edit) == "429"
    said = box.sh("journalctl -u i2ii-http -o cat")
    assert "max_queue is now 1\n" in said
    assert "drain_seconds is now 7.0, after a restart\n" in said
    assert (
        "max_queue must be greater than or equal to 1, got '0'; it comes from /etc/i2ii/i2ii.env\n"
        in said
    )
    assert (box.pid("i2ii-http"), box.show("i2ii-http", "ActiveState")) == (server, "active")


def test_what_a_worker_could_write_configures_no_daemon(box: Box) -> None:
    box.sh(
        "install -d -o i2ii /var/lib/i2ii/.config/i2ii; "
        "echo I2II_MAX_QUEUE=1 > /var/lib/i2ii/.config/i2ii/i2ii.env; systemctl start i2ii-http"
    )
    edit = (
        "curl -s -o /dev/null -w '%{http_code}' -F image=@/home/alice/photo.jpg -F "
        "prompt=sepia localhost:8000/edit"
    )
    assert [box.sh(edit), box.sh(edit)] == ["202", "202"]


def test_sandbox_decodes_a_picture(box: Box) -> None:
    """It does so in a process with limits of its own, which the sandbox must let it set."""
    make_picture(box.path("/home/alice/photo.webp"))
    box.sh("systemctl start i2ii-http")
    edit = "curl -s -F image=@/home/alice/photo.webp -F prompt=sepia localhost:8000/edit"
    assert json.loads(box.sh(edit))["status"] == "submitted"


def test_tokens_protect_a_public_server_and_reload_without_restart(box: Box) -> None:
    box.set(host="0.0.0.0", tokens_file="/etc/i2ii/tokens")
    alice, ops = (box.sh(f"i2ii token add {name}").strip() for name in ("alice", "ops --operator"))
    assert box.sh("stat -c '%U %G %a' /etc/i2ii/tokens").split() == ["root", "i2ii", "640"]
    box.sh("i2ii units install; systemctl start i2ii-http")
    server = box.pid("i2ii-http")
    assert "0.0.0.0:8000" in box.sh("ss -ltn")

    def status(token: str) -> str:
        header = f"Authorization: Bearer {token}"
        return box.sh(f"curl -s -o /dev/null -w '%{{http_code}}' -H '{header}' localhost:8000/jobs")

    assert [status(token) for token in (alice, ops, "wrong")] == ["200", "200", "401"]
    box.sh("i2ii token revoke alice")
    wait_until(lambda: status(alice) == "401")
    assert (status(ops), box.pid("i2ii-http")) == ("200", server)
    said = box.sh("journalctl -u i2ii-http; i2ii settings; cat /etc/i2ii/tokens")
    assert alice not in said
    assert ops not in said


def test_the_timer_deletes_what_has_been_kept_long_enough(box: Box) -> None:
    box.sh("systemctl start i2ii.target")
    old, new = box.submit(), box.submit()
    box.wait(old, "completed")
    box.wait(new, "completed")
    box.set(keep_jobs=1)
    box.sh("systemctl start i2ii-gc.service")
    assert box.sh(f"ls {SPOOL}/done").split() == [new]
    assert box.show("i2ii-gc.timer", "NextElapseUSecRealtime") != ""


def test_group_member_submits_and_moves_jobs_in_the_spool(box: Box) -> None:
    box.set(settle_seconds=0.2)
    box.sh("systemctl start i2ii.target")
    box.sh(
        f"{ALICE} sh -c 'umask 002; mkdir /tmp/wedding; cp /home/alice/photo.jpg /tmp/wedding; "
        f"echo unknown > /tmp/wedding/prompt.txt; cp -r /tmp/wedding {SPOOL}/incoming/'"
    )
    failed = wait_until(lambda: box.sh(f"ls {SPOOL}/failed").split())
    assert failed[0].endswith("_wedding")
    box.sh(f"{ALICE} mv {SPOOL}/failed/{failed[0]} {SPOOL}/incoming/")
    wait_until(
        lambda: box.job(failed[0])["status"] == "failed" and not box.sh(f"ls {SPOOL}/incoming")
    )
    assert box.run("setpriv", "--reuid=nobody", "ls", SPOOL, check=False).returncode != 0


# --- when things go wrong -------------------------------------------------------------------------


def test_killed_worker_is_restarted_and_its_job_finishes(box: Box) -> None:
    box.use("slow")
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit(steps=60)
    box.wait_step(id)
    box.sh("systemctl kill -s KILL i2ii-gpu@0")
    assert box.wait(id, "completed")["attempts"] == 2
    assert box.show("i2ii-gpu@0", "NRestarts") == "1"


def test_hung_gpu_is_detected_and_its_job_is_finished_by_another(box: Box) -> None:
    box.use("hangs", WatchdogSec="3")
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit("hang")
    assert box.wait(id, "completed")["attempts"] == 2
    said = box.sh("journalctl -u i2ii-gpu@0 -o cat")
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said
    assert re.search(r'File "/opt/tests/tests/support/stub_engines.py", line \d+ in edit', said)


def test_a_server_that_hangs_is_started_again(box: Box) -> None:
    box.drop_in("i2ii-http.service", "WatchdogSec=2")
    box.sh("systemctl start i2ii-http")
    hanging = box.pid("i2ii-http")
    box.sh("systemctl kill -s STOP i2ii-http")
    wait_until(lambda: box.pid("i2ii-http") not in (hanging, 0))
    assert box.sh("curl -s --retry 0 --max-time 60 localhost:8000/livez") == '{"status": "alive"}'
    assert box.show("i2ii-http", "NRestarts") == "1"


def test_a_stop_lets_the_edit_finish(box: Box) -> None:
    box.use("slow")
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit(steps=40)
    box.wait_step(id)
    box.sh("systemctl stop i2ii-gpu@0")
    assert (box.job(id)["status"], box.show("i2ii-gpu@0", "Result")) == ("completed", "success")


def test_a_stop_gives_back_an_edit_that_would_take_too_long(box: Box) -> None:
    box.use("slow")
    box.set(drain_seconds=0)
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit(steps=100)
    box.wait_step(id)
    box.sh("systemctl stop i2ii-gpu@0")
    assert (box.job(id)["status"], box.show("i2ii-gpu@0", "Result")) == ("queued", "success")
    assert "attempt" not in box.sh(f"ls {SPOOL}/incoming/{id}")


def test_slow_drain_extends_the_stop_timeout_of_the_unit(box: Box) -> None:
    box.use("slow", TimeoutStopSec="1")
    box.sh("systemctl start i2ii-gpu@0")
    id = box.submit(steps=80)
    box.wait_step(id)
    box.sh("systemctl stop i2ii-gpu@0")
    assert (box.job(id)["status"], box.show("i2ii-gpu@0", "Result")) == ("completed", "success")


def test_after_a_power_cut_the_queue_goes_on(box: Box) -> None:
    box.use("slow")
    box.sh("systemctl start i2ii.target")
    ids = [box.submit(steps=60) for _ in range(3)]
    box.wait_step(ids[0])
    box.reboot()
    for id in ids:
        box.wait(id, "completed")
    assert box.job(ids[0])["attempts"] == 2
    assert (
        box.sh(f"cd {SPOOL}; ls incoming running/* failed .tmp | grep -v :$ || true").split() == []
    )


def test_a_worker_that_cannot_start_ends_as_failed_with_the_reason(box: Box) -> None:
    box.use("broken_at_load", RestartSec="100ms")
    box.run("systemctl", "start", "i2ii-gpu@0", check=False)
    wait_until(lambda: box.show("i2ii-gpu@0", "ActiveState") == "failed")
    assert box.show("i2ii-gpu@0", "NRestarts") == "6"  # the start that was refused counts
    status = box.run("systemctl", "status", "i2ii-gpu@0", check=False).stdout
    assert 'Status: "the card is defective"' in status
    assert "Start request repeated too quickly" in status
    found = json.loads(box.run("sh", "-c", f"cd / && {I2II} doctor --json", check=False).stdout)[
        "findings"
    ]
    [unit] = [finding for finding in found if finding["check"] == "units"]
    assert unit["message"] == "i2ii-gpu@0.service has failed (exit-code): the card is defective"
    assert unit["cure"].endswith(
        "systemctl reset-failed i2ii-gpu@0.service && systemctl start i2ii-gpu@0.service"
    )


def test_a_wrong_setting_is_not_tried_again(box: Box) -> None:
    box.set(max_attempts=0)
    box.run("systemctl", "start", "i2ii-gpu@0", check=False)
    assert (box.show("i2ii-gpu@0", "ActiveState"), box.show("i2ii-gpu@0", "NRestarts")) == (
        "failed",
        "0",
    )
    status = box.run("systemctl", "status", "i2ii-gpu@0", check=False).stdout
    assert 'Status: "max_attempts must be greater than or equal to 1, got' in status


def test_working_gpu_does_all_jobs_beside_a_broken_gpu(box: Box) -> None:
    box.use("slow")
    box.use("broken_at_load", "i2ii-gpu@1", RestartSec="100ms")
    box.sh("systemctl enable i2ii-gpu@1; systemctl start --no-block i2ii.target")
    ids = [box.submit() for _ in range(4)]
    for id in ids:
        assert box.wait(id, "completed")["worker"] == "machine.gpu0"
    wait_until(lambda: box.show("i2ii-gpu@1", "ActiveState") == "failed")
    assert json.loads(box.sh("curl -s localhost:8000/health"))["status"] == "healthy"


def test_broken_gpu_releases_its_job_to_a_working_gpu(box: Box) -> None:
    box.use("slow")
    box.use("broken_in_edit", "i2ii-gpu@1", RestartSec="1h")
    box.sh("systemctl start i2ii-gpu@1")
    id = box.submit()
    wait_until(lambda: box.show("i2ii-gpu@1", "SubState") == "auto-restart")
    box.sh("systemctl start i2ii-gpu@0")
    shown = box.wait(id, "completed")
    assert (shown["worker"], shown["attempts"]) == ("machine.gpu0", 2)


def test_job_that_exhausts_memory_fails_alone(installed: list[str]) -> None:
    with Box(installed, limits_memory=True) as box:
        box.prepare()
        box.use("hungry", MemoryMax="200M", RestartSec="100ms")
        box.sh("systemctl start i2ii-gpu@0")
        hungry, other = box.submit("eat"), box.submit()
        assert box.wait(hungry, "failed")["error"]["code"] == "crashed"
        box.wait(other, "completed")
        assert box.show("i2ii-gpu@0", "NRestarts") == "3"


def test_slow_load_extends_the_start_timeout_of_the_unit(box: Box) -> None:
    box.use("slow_to_load", TimeoutStartSec="8")
    box.sh("systemctl start i2ii-gpu@0")
    assert box.show("i2ii-gpu@0", "NRestarts") == "0"
    loaded = box.sh("journalctl -u i2ii-gpu@0 -o cat | sed -n 's/.*loaded in \\([0-9]*\\).*/\\1/p'")
    assert int(loaded) > 8


def test_an_upgrade_in_place_lets_the_old_workers_finish(
    installed: list[str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    env = next(bind for bind in installed if bind.endswith(":/opt/i2ii"))
    subprocess.run(["cp", "-a", env.partition(":")[0], tmp_path / "env"], check=True)
    wheel = build_wheel(tmp_path / "source", version="9.9.9")
    binds = [bind for bind in installed if bind != env]
    with Box([*binds, f"{tmp_path}/env:/opt/i2ii", f"{wheel.parent}:/opt/new"]) as box:
        box.prepare()
        box.use("slow")
        box.sh("systemctl start i2ii.target")
        ids = [box.submit(steps=100), box.submit()]
        box.wait_step(ids[0])
        box.sh("/opt/i2ii/bin/pip install -q --no-index --no-deps --upgrade /opt/new/*.whl")
        box.sh(f"{I2II} units install; systemctl restart i2ii-http 'i2ii-gpu@*'")
        for id in ids:
            assert box.wait(id, "completed")["attempts"] == 1
        assert "i2ii 9.9.9" in box.sh("journalctl -u i2ii-gpu@0 -o cat | grep ready | tail -n 1")
        assert "i2ii 9.9.9" not in box.sh(
            "journalctl -u i2ii-gpu@0 -o cat | grep ready | head -n 1"
        )
