"""`i2ii doctor` on spools and machines that are well, and on some that are not."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.host.filesystems import find_mount
from i2ii_spool.ops import doctor
from i2ii_spool.ops.doctor import machine
from i2ii_spool.ops.doctor.finding import Finding, ok
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support import FAKE_DRIVER
from tests.support.jobs import SubmitJob
from tests.support.service import Service, cli, wait_until

pytestmark = pytest.mark.xdist_group("mounts")

A = "GPU-aaaa0000-1111"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
90 22 0:44 / /srv rw,relatime shared:50 - nfs4 server:/export rw,vers=4.2
91 90 0:45 / /srv/my\\040spool rw,relatime - tmpfs tmpfs rw
92 91 0:46 / /srv/my\\040spool rw,relatime - xfs /dev/sdb rw
"""


def examined(service: Service, *options: str) -> dict[str, list[dict[str, Any]]]:
    """What the doctor finds, by check."""
    report = json.loads(cli(service, "doctor", "--json", *options, check=False).stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    errors = [finding for finding in report["findings"] if finding["verdict"] == "error"]
    assert report["healthy"] == (not errors)
    return found


def test_a_service_that_is_well_has_nothing_to_cure(service: Service) -> None:
    url = service.serve()
    service.work("0")
    done = cli(service, "doctor", "--port", url.rpartition(":")[2], check=False)
    assert done.returncode == 0, done.stdout
    lines = [
        line
        for line in done.stdout.splitlines()
        if "time service" not in line and "timedatectl" not in line
    ]
    assert [line.split()[1] for line in lines if not line.startswith("ok ")] == []
    assert f"the server answers on {url.removeprefix('http://')}" in done.stdout


def test_each_finding_that_is_not_well_names_a_cure(service: Service, tmp_path: Path) -> None:
    found = examined(
        service,
        "--spool",
        str(tmp_path / "none"),
        "--engine",
        "qwen",
        "--host",
        "0.0.0.0",
        "--no-auth",
    )
    findings = [finding for findings in found.values() for finding in findings]
    assert {finding["check"] for finding in findings if finding["verdict"] != "ok"} >= {
        "spool",
        "access",
        "gpus",
    }
    assert all(finding.get("cure") for finding in findings if finding["verdict"] != "ok")


@pytest.mark.parametrize(("mode", "verdict"), [(0o755, "ok"), (0o777, "error")])
def test_the_spool_itself_may_be_looked_at_and_not_written_to(
    service: Service, mode: int, verdict: str
) -> None:
    service.spool.root.chmod(mode)
    [finding] = examined(service)["ownership"]
    assert finding["verdict"] == verdict


def test_tokens_are_counted_and_a_file_that_is_not_used_is_named(
    service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    cli(service, "token", "add", "ops", "--operator", "--tokens-file", str(file))
    [finding] = examined(service, "--tokens-file", str(file))["access"]
    assert (finding["verdict"], finding["message"].endswith("has 1, 1 of operators")) == (
        "ok",
        True,
    )
    file.chmod(0o644)
    [finding] = examined(service, "--tokens-file", str(file))["access"]
    assert (finding["verdict"], f"chmod 640 {file}" in finding["message"]) == ("error", True)


def test_world_readable_spool_is_reported_with_its_cure(
    service: Service,
) -> None:
    service.spool.done.chmod(0o755)
    [finding] = examined(service)["ownership"]
    assert finding["verdict"] == "error"
    subprocess.run(finding["cure"], shell=True, check=True)
    assert examined(service)["ownership"][0]["verdict"] == "ok"


def test_a_folder_that_is_missing_is_named(service: Service) -> None:
    service.spool.keys.rmdir()
    [finding] = examined(service)["spool"]
    assert (finding["verdict"], finding["message"]) == ("error", f"not there: {service.spool.keys}")


@needs_root
@pytest.mark.parametrize(
    ("mount", "verdict", "says"),
    [
        ("mount -t tmpfs tmpfs {}", "warning", "tmpfs is in memory: a reboot loses every job"),
        (
            "mkdir {0}-l {0}-d; mount -t tmpfs tmpfs {0}-d; mkdir {0}-d/u {0}-d/w; "
            "mount -t overlay overlay -o lowerdir={0}-l,upperdir={0}-d/u,workdir={0}-d/w {0}",
            "error",
            "overlay does not promise what a queue needs",
        ),
    ],
)
def test_a_file_system_that_a_queue_cannot_rest_on_is_refused(
    service: Service, tmp_path: Path, mount: str, verdict: str, says: str
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    make = (
        "from pathlib import Path; from i2ii_spool.spool.layout import Spool; "
        "Spool(Path('{}')).create()"
    )
    python = shlex.quote(sys.executable)
    script = (
        f'{mount}; {python} -c "{make}"; {python} -m i2ii_spool doctor --json --spool {{}} || true'
    )
    shown = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script.replace("{0}", "{}").replace("{}", str(folder))],
        env=service.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    [finding] = [
        each for each in json.loads(shown.stdout)["findings"] if each["check"] == "file system"
    ]
    assert (finding["verdict"], finding["message"]) == (verdict, says)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/spool", "ext4"), ("/srv/spool", "nfs4"), ("/srv/my spool/x", "xfs"), ("/srvother", "ext4")],
)
def test_the_mount_that_a_path_lies_on_is_the_longest_and_latest(path: str, kind: str) -> None:
    assert find_mount(MOUNTINFO, Path(path)).kind == kind


@needs_root
def test_a_spool_that_cannot_be_written_is_found(service: Service) -> None:
    root = service.spool.root
    script = (
        f"mount --bind {root} {root}; mount -o remount,bind,ro {root}; "
        f"{sys.executable} -m i2ii_spool doctor || true"
    )
    shown = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script],
        env=service.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "cannot write: [Errno 30] Read-only file system" in shown
    assert "error    locks         cannot be checked: [Errno 30]" in shown
    assert "ok       ownership" in shown


def test_too_little_space_is_an_error(service: Service) -> None:
    [finding] = examined(service, "--min-free-mib", "1e9")["space"]
    assert finding["verdict"] == "error"
    assert "floor 1000000000 MiB: submits are refused" in finding["message"]


def test_a_job_from_the_future_shows_that_clocks_differ(
    service: Service, submit_job: SubmitJob
) -> None:
    id = submit_job()
    (service.spool.incoming / id).rename(service.spool.incoming / f"2999{id[4:]}")
    [finding] = examined(service)["clock"]
    assert (finding["verdict"], finding["message"]) == (
        "warning",
        f"1 jobs wait with an id from the future, like 2999{id[4:]}",
    )


def test_a_port_that_another_program_holds_is_found(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.close()
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", port))  # bound, and not listening: no answer
            [finding] = examined(service, "--port", str(port))["port"]
    assert finding["verdict"] == "error"
    assert "Address already in use" in finding["message"]


def test_a_dead_worker_is_found(service: Service) -> None:
    service.work("0").kill()
    wait_until(lambda: "is dead" in examined(service)["workers"][0]["message"])
    assert examined(service)["workers"][1]["message"] == "no workers are running: jobs wait"


def test_a_check_that_fails_ends_no_other(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_tea(_settings: Settings) -> Iterator[Finding]:
        yield ok("tea", "is there")
        raise RuntimeError("the pot is empty")

    monkeypatch.setattr(doctor, "MACHINE_CHECKS", (check_tea, machine.check_access))
    *_, tea, pot, access = doctor.examine(Settings(spool=spool.root))
    assert (tea.verdict, access.check, access.verdict) == ("ok", "access", "ok")
    assert (pot.check, pot.verdict) == ("tea", "error")
    assert pot.message == "cannot be checked: RuntimeError: the pot is empty"


def on_a_gpu_machine(service: Service, tmp_path: Path, torch: str | None) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    if torch is not None:
        (packages / "torch.py").write_text(torch)
    service.environment |= {
        "PYTHONPATH": f"{FAKE_DRIVER}:{packages}",
        "FAKE_GPUS": json.dumps([{"minor": 0, "uuid": A}]),
        "I2II_ENGINE": "auto",
    }


TORCH = """
from types import SimpleNamespace
__version__ = "2.13.0"
version = SimpleNamespace(cuda={cuda!r})
cuda = SimpleNamespace(is_available=lambda: {is_available})
"""


@pytest.mark.parametrize(
    ("torch", "verdict", "says"),
    [
        (TORCH.format(cuda="12.6", is_available=True), "ok", "2.13.0, built for CUDA 12.6"),
        (
            TORCH.format(cuda="13.0", is_available=False),
            "error",
            "built for CUDA 13.0; the driver serves CUDA up to 12.8",
        ),
        (
            TORCH.format(cuda=None, is_available=False),
            "error",
            "built for no GPU; the driver serves CUDA up to 12.8",
        ),
        (TORCH.format(cuda="12.6", is_available=False), "error", "it sees no GPU"),
        (
            "raise OSError('libcudart.so is not there')",
            "error",
            "cannot be loaded: OSError: libcudart.so is not there",
        ),
    ],
)
def test_torch_must_fit_the_driver(
    service: Service, tmp_path: Path, torch: str, verdict: str, says: str
) -> None:
    on_a_gpu_machine(service, tmp_path, torch)
    [finding] = examined(service)["torch"]
    assert finding["verdict"] == verdict
    assert says in finding["message"]


def test_the_gpus_and_their_driver_are_named(service: Service, tmp_path: Path) -> None:
    on_a_gpu_machine(service, tmp_path, None)
    found = examined(service, "--model", str(tmp_path / "none"))
    [finding] = found["gpus"]
    assert finding["message"] == f"0 NVIDIA Imaginary {A}; driver 570.86.15, CUDA up to 12.8"
    assert found["model"][0]["verdict"] == "error"


def test_a_driver_that_does_not_work_is_found(service: Service, tmp_path: Path) -> None:
    on_a_gpu_machine(service, tmp_path, None)
    service.environment["FAKE_GPUS"] = json.dumps({"error": 18})
    [finding] = examined(service, "--engine", "classic")["gpus"]
    assert finding["verdict"] == "error"
    assert "the NVIDIA driver does not work" in finding["message"]
