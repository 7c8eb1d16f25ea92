"""The units of systemd/: installed by `i2ii units` from a wheel, and judged by systemd itself."""

import json
import re

import pytest

from i2ii_spool.images.sandbox import limits
from i2ii_spool.ops import installer
from i2ii_spool.settings import Settings, meaning
from tests.support import ROOT
from tests.support.machine import Machine
from tests.support.receiver import new_secret

SERVICES = ["i2ii-http.service", "i2ii-gpu@0.service", "i2ii-gc.service"]
SHIPPED = ROOT / "systemd"


def test_what_is_shipped_is_what_is_installed() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {
        *installer.UNITS,
        "i2ii.sysusers",
        "i2ii.tmpfiles",
    }


def test_installing_enables_everything_for_a_machine_without_a_gpu(machine: Machine) -> None:
    said = machine.sh("/opt/i2ii/bin/i2ii units install")
    assert said.endswith(
        "\nenabled i2ii-gpu@0; next: i2ii model fetch, i2ii doctor, and systemctl start "
        "i2ii.target\n"
    )
    machine.sh("systemctl start i2ii.target")
    print(machine.sh("journalctl -u i2ii-http -u i2ii-gpu@0 | tail -40"))
    for unit in (
        "i2ii.target",
        "i2ii-http.socket",
        "i2ii-http.service",
        "i2ii-gpu@0.service",
        "i2ii-gc.timer",
    ):
        assert machine.show(unit, "ActiveState") == "active", unit
        assert machine.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    machine.reboot()
    assert machine.show("i2ii-gpu@0", "ActiveState") == "active"
    assert json.loads(machine.sh("curl -s localhost:8000/health"))["status"] == "healthy"
    assert machine.sh("stat -c '%A %U %G' /var/lib/i2ii/spool/incoming") == "drwxrws--- i2ii i2ii\n"


def test_installing_again_changes_nothing_and_keeps_the_settings(machine: Machine) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install")
    machine.sh("echo I2II_MAX_QUEUE=7 >> /etc/i2ii/i2ii.env")
    said = machine.sh("/opt/i2ii/bin/i2ii units install").splitlines()
    assert {line.split()[0] for line in said if line} == {"unchanged", "keep", "run", "enabled"}
    assert "I2II_MAX_QUEUE=7" in machine.sh("cat /etc/i2ii/i2ii.env")


def test_the_settings_file_holds_every_setting_with_its_meaning(machine: Machine) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install")
    text = machine.sh("cat /etc/i2ii/i2ii.env")
    for name in Settings.model_fields:
        explained = rf"^# {re.escape(meaning(name))}( \(reload\))?\n#?I2II_{name.upper()}="
        assert re.search(explained, text, re.MULTILINE), name
    assert [line for line in text.splitlines() if line and line[0] != "#"] == [
        "I2II_SPOOL=/var/lib/i2ii/spool"
    ]
    assert "/etc/i2ii/i2ii.env" in machine.sh("cd / && /opt/i2ii/bin/i2ii settings | grep ^spool")
    machine.sh(
        "sed -i s/^#// /etc/i2ii/i2ii.env && sed -i '/^I2II_[A-Z_]*=$/d; /^[^I]/d' "
        "/etc/i2ii/i2ii.env"
    )
    machine.sh("/opt/i2ii/bin/i2ii settings")  # each default is a value that is allowed


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    said = machine.sh("/opt/i2ii/bin/i2ii units install --dry-run")
    assert "write     /etc/systemd/system/i2ii-gpu@.service\n" in said
    assert "run       systemctl enable i2ii.target" in said
    assert machine.sh("ls /etc/systemd/system/i2ii* /etc/i2ii 2>/dev/null || true") == ""


def test_each_card_gets_a_worker_or_each_of_its_slices(machine: Machine) -> None:
    slices = ["MIG-1111aaaa-1", "MIG-2222bbbb-2"]
    cards = json.dumps(
        [
            {"minor": 0, "uuid": "GPU-aaaa0000-1"},
            {"minor": 1, "uuid": "GPU-bbbb0000-1", "slices": slices},
        ]
    )
    driver = {"PYTHONPATH": "/opt/tests/tests/support/fake_driver", "FAKE_GPUS": cards}
    machine.sh(
        f"PYTHONPATH={driver['PYTHONPATH']} FAKE_GPUS='{cards}' /opt/i2ii/bin/i2ii units install"
    )
    machine.sh(
        "echo I2II_ENGINE=classic >> /etc/i2ii/i2ii.env; mkdir "
        "/run/systemd/system/i2ii-gpu@.service.d"
    )
    lines = [f"Environment='{name}={value}'\n" for name, value in driver.items()]
    machine.path("/run/systemd/system/i2ii-gpu@.service.d/fake.conf").write_text(
        "".join(["[Service]\n", *lines])
    )
    machine.sh(
        "systemctl daemon-reload; systemctl start i2ii.target; systemctl start "
        "i2ii-gpu@GPU-aaaa0000-1"
    )
    workers = json.loads(machine.sh("curl -s localhost:8000/system/status"))["workers"]
    assert {worker["worker"]: worker["gpu_id"] for worker in workers} == {
        "machine.gpu0": 0,
        "machine.gpu-aaaa0000": "GPU-aaaa0000-1",
        "machine.mig-1111aaaa": slices[0],
        "machine.mig-2222bbbb": slices[1],
    }
    for instance, card in {"0": 0, "GPU-aaaa0000-1": 0, slices[0]: 1, slices[1]: 1}.items():
        assert f"/dev/nvidia{card} rw" in machine.sh(
            f"systemctl show -p DeviceAllow i2ii-gpu@{instance}"
        )
    assert "i2ii-gpu@1." not in machine.sh("ls /etc/systemd/system/i2ii.target.wants")


def test_removing_leaves_settings_and_jobs_and_nothing_else(machine: Machine) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install; systemctl start i2ii.target")
    machine.sh("/opt/i2ii/bin/i2ii units remove")
    assert (
        machine.sh("systemctl list-units --all --no-legend 'i2ii*'; find /etc -name '*i2ii*'")
        == "/etc/i2ii\n/etc/i2ii/i2ii.env\n"
    )
    assert "incoming" in machine.sh("ls /var/lib/i2ii/spool")
    assert machine.sh("/opt/i2ii/bin/i2ii units remove") == "keep      /etc/i2ii/i2ii.env\n"


def test_an_image_of_a_system_is_prepared_without_running_it(machine: Machine) -> None:
    machine.sh(
        "mkdir -p /image/etc && cp /etc/passwd /etc/group /image/etc && mkdir -p "
        "/image/usr/lib /image/var"
    )
    machine.sh("/opt/i2ii/bin/i2ii units install --prefix /image")
    assert "i2ii-gpu@0.service" in machine.sh("ls /image/etc/systemd/system/i2ii.target.wants")
    assert machine.sh("stat -c %A /image/var/lib/i2ii/spool/.tmp") == "drwxrws---\n"
    assert machine.sh("ls /etc/systemd/system/i2ii* 2>/dev/null || true") == ""


def test_another_spool_and_port_reach_every_unit(machine: Machine) -> None:
    machine.sh(
        "mkdir -p /etc/i2ii && printf 'I2II_SPOOL=/run/elsewhere\nI2II_PORT=8123\n' > "
        "/etc/i2ii/i2ii.env"
    )
    machine.sh("/opt/i2ii/bin/i2ii units install; systemctl start i2ii.target")
    shown = json.loads(machine.sh("curl -s localhost:8123/system/status"))
    assert (shown["spool"]["path"], shown["ready_workers"]) == ("/run/elsewhere", 1)


def test_a_spool_may_have_any_path(machine: Machine) -> None:
    spool = "/srv/my spool 100%, é"
    machine.sh(f"mkdir -p /etc/i2ii && echo \"I2II_SPOOL='{spool}'\" > /etc/i2ii/i2ii.env")
    machine.sh("/opt/i2ii/bin/i2ii units install; systemctl start i2ii.target i2ii-gc.service")
    shown = json.loads(machine.sh("curl -s localhost:8000/system/status"))
    assert (shown["spool"]["path"], shown["ready_workers"]) == (spool, 1)
    assert machine.sh(f"stat -c '%A %U' '{spool}/.tmp'") == "drwxrws--- i2ii\n"


def test_the_server_may_write_into_its_spool_alone(machine: Machine) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install; systemctl start i2ii.target")
    process = machine.sh("systemctl show -p MainPID --value i2ii-http").strip()
    for path, may_write in {
        "/var/lib/i2ii/spool/.tmp/new": True,
        "/var/lib/i2ii/.config": False,
        "/var/lib/i2ii/.cache": False,
        "/etc/i2ii/tokens": False,
        "/opt/i2ii/new": False,
    }.items():
        tried = machine.run("nsenter", "-t", process, "-m", "mkdir", path, check=False)
        assert (tried.returncode == 0) is may_write, tried.stdout


def test_the_deliverer_runs_where_there_is_a_secret_and_is_no_failure_where_not(
    machine: Machine,
) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install; systemctl start i2ii.target")
    machine.sh("systemctl restart i2ii-webhooks")
    assert machine.run("systemctl", "is-enabled", "i2ii-webhooks").stdout == "enabled\n"
    machine.sh("until systemctl show -p ActiveState i2ii-webhooks | grep -q inactive; do :; done")
    assert machine.show("i2ii-webhooks", "Result") == "success"
    assert machine.sh("systemctl list-units --no-legend --state=failed 'i2ii*'") == ""
    secret = new_secret()
    machine.sh(
        f"printf 'I2II_WEBHOOK_SECRETS={secret}\nI2II_WEBHOOK_PRIVATE=true\n' >> "
        "/etc/i2ii/i2ii.env; chgrp i2ii /etc/i2ii/i2ii.env; chmod 640 /etc/i2ii/i2ii.env"
    )
    machine.sh("systemctl restart i2ii.target")
    assert machine.show("i2ii-webhooks", "ActiveState") == "active"
    answer = "HTTP/1.1 204 No Content\\r\\nConnection: close\\r\\n\\r\\n"
    listen = (
        "import socket; s = socket.create_server(('127.0.0.1', 9000)); c, _ = s.accept(); "
        f"open('/run/told', 'wb').write(c.recv(65536)); c.send(b'{answer}')"
    )
    machine.sh(f'systemd-run -q --unit=receiver /opt/i2ii/bin/python -c "{listen}"')
    make = "from PIL import Image; Image.new('RGB', (32, 32)).save('/run/a.png')"
    machine.sh(f'/opt/i2ii/bin/python -c "{make}"')
    said = machine.sh(
        "curl -s localhost:8000/edit -F image=@/run/a.png -F prompt=sepia "
        "-F webhook=http://127.0.0.1:9000/hook"
    )
    id = json.loads(said)["request_id"]
    machine.sh(f"until curl -s localhost:8000/status/{id} | grep -q delivered; do sleep 0.1; done")
    told = machine.sh("cat /run/told")
    assert told.startswith("POST /hook HTTP/1.1")
    assert f'"request_id":"{id}"' in told
    assert machine.sh(f"journalctl -o export | grep -c {secret} || true").strip() == "0"
    machine.sh("systemctl stop i2ii.target")
    assert machine.show("i2ii-webhooks", "Result") == "success"


@pytest.mark.parametrize("unit", ["i2ii-http.service", "i2ii-gpu@.service"])
def test_a_unit_lets_a_decoder_restrict_itself(machine: Machine, unit: str) -> None:
    filters = [
        f"--property={line}"
        for line in (SHIPPED / unit).read_text().splitlines()
        if line.startswith("SystemCall")
    ]
    program = "from i2ii_spool.images.sandbox import limits; print(limits.landlock_version())"
    command = ["systemd-run", "--quiet", "--pipe", "--wait", *filters]
    ran = machine.run(*command, "/opt/i2ii/bin/python", "-c", program)
    assert int(ran.stdout) == limits.landlock_version()


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        ("export I2II_PORT=0", "port must not be 0 for units"),
        ("export I2II_SPOOL=here", "spool must be an absolute path for units, got here"),
        (
            "mkdir /etc/i2ii; touch /etc/i2ii/i2ii.env; export I2II_PORT=1",
            "write it into /etc/i2ii/i2ii.env, and `unset",
        ),
        (
            "mkdir /etc/i2ii; echo I2II_PORT=x > /etc/i2ii/i2ii.env",
            "it comes from /etc/i2ii/i2ii.env",
        ),
        ("export PATH=/nowhere", "systemctl is not there"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cure(
    machine: Machine, prepare: str, says: str
) -> None:
    refused = machine.run("sh", "-c", f"{prepare}; /opt/i2ii/bin/i2ii units install", check=False)
    assert refused.returncode == 78
    assert says in refused.stdout
    assert machine.sh("ls /etc/systemd/system/i2ii* 2>/dev/null || true") == ""


def test_an_environment_in_a_home_is_refused(machine: Machine) -> None:
    machine.sh("mkdir -p /home/me && mount --bind /opt/i2ii /mnt && cp -a /mnt /home/me/env")
    refused = machine.run(
        "/home/me/env/bin/python", "-m", "i2ii_spool", "units", "install", check=False
    )
    assert refused.returncode == 78
    assert (
        "is in a home directory, which the units cannot read; install elsewhere: " in refused.stdout
    )


def test_a_token_is_not_written_to_a_file_for_all(machine: Machine) -> None:
    token = "I2II_API_TOKEN=0123456789abcdef"
    refused = machine.run("env", token, "/opt/i2ii/bin/i2ii", "units", "install", check=False)
    assert refused.returncode == 78
    assert "I2II_API_TOKEN is set, and /etc/i2ii/i2ii.env will be readable" in refused.stdout
    assert not machine.path("/etc/i2ii/i2ii.env").exists()


def test_only_root_installs_for_the_system(machine: Machine) -> None:
    refused = machine.run(
        "setpriv", "--reuid=nobody", "/opt/i2ii/bin/i2ii", "units", "install", check=False
    )
    assert (refused.returncode, refused.stdout.count("use sudo, or --user-mode")) == (78, 1)


def test_newer_systemd_gets_a_growing_restart_delay(machine: Machine) -> None:
    machine.sh(
        "mkdir /run/new; printf '#!/bin/sh\necho systemd 254 ' > /run/new/systemctl; "
        "chmod +x /run/new/systemctl"
    )
    machine.sh("PATH=/run/new:$PATH /opt/i2ii/bin/i2ii units install")
    for name in ("i2ii-gpu@", "i2ii-http"):
        assert "RestartSec=2\n# Wait longer" in machine.sh(
            f"cat /etc/systemd/system/{name}.service"
        )
    machine.sh("/opt/i2ii/bin/i2ii units install")
    assert "RestartSteps" not in machine.sh("cat /etc/systemd/system/i2ii-*.service")


# --- what systemd says of them --------------------------------------------------------------------


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install")
    names = [name.replace("@.", "@0.") for name in installer.UNITS]
    verified = machine.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names)
    assert verified.stdout == ""


@pytest.mark.parametrize(
    ("unit", "most"),
    [("i2ii-http", 1.5), ("i2ii-gpu@0", 2.5), ("i2ii-gc", 1.5), ("i2ii-webhooks", 2.0)],
)
def test_the_exposure_is_low(machine: Machine, unit: str, most: float) -> None:
    machine.sh("/opt/i2ii/bin/i2ii units install")
    said = machine.sh(f"systemd-analyze security --threshold={10 * most:.0f} {unit}.service")
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert found is not None
    assert 0 < float(found.group(1)) <= most


def test_a_worker_may_use_its_own_card_alone(machine: Machine) -> None:
    """There is no card behind the files: the one that is allowed answers so, the other one is
    forbidden."""
    machine.sh("/opt/i2ii/bin/i2ii units install; mkdir /run/systemd/system/i2ii-gpu@1.service.d")
    look = "for card in 0 1; do (: < /dev/nvidia$$card) 2>&1; done; true"
    drop_in = f"[Service]\nExecStartPre=sh -c '{look}'\n"
    machine.path("/run/systemd/system/i2ii-gpu@1.service.d/look.conf").write_text(drop_in)
    machine.sh("systemctl daemon-reload; systemctl start i2ii-gpu@1")
    said = [
        record["MESSAGE"]
        for record in machine.journal("-u", "i2ii-gpu@1")
        if "/dev/nvidia" in record["MESSAGE"]
    ]
    assert [line.partition("/dev/")[2] for line in said] == [
        "nvidia0: Operation not permitted",
        "nvidia1: No such device or address",
    ]


# --- without root ---------------------------------------------------------------------------------


def test_a_user_has_units_of_their_own(machine: Machine) -> None:
    machine.sh(
        "useradd --create-home --uid 1234 me; mkdir -p /run/user; install -d -m 700 -o "
        "me /run/user/1234"
    )
    as_me = (
        "setpriv --reuid=me --regid=me --init-groups env HOME=/home/me "
        "XDG_RUNTIME_DIR=/run/user/1234"
    )
    machine.sh(
        "systemd-run -q --uid=me -E XDG_RUNTIME_DIR=/run/user/1234 -p Delegate=yes --unit=me "
        "/lib/systemd/systemd --user"
    )
    machine.sh(f"until {as_me} systemctl --user is-system-running --wait; do sleep 0.1; done")
    machine.sh(
        f"{as_me} /opt/i2ii/bin/i2ii units install --user-mode && {as_me} systemctl "
        "--user start i2ii.target"
    )
    shown = json.loads(machine.sh("curl -s localhost:8000/system/status"))
    assert (shown["spool"]["path"], shown["ready_workers"]) == (
        "/home/me/.local/share/i2ii/spool",
        1,
    )
    assert machine.sh(f"cd / && {as_me} /opt/i2ii/bin/i2ii ls") == ""
    machine.sh(f"{as_me} /opt/i2ii/bin/i2ii units remove --user-mode")
    assert (
        machine.sh("find /home/me/.config -type f -name 'i2ii*'")
        == "/home/me/.config/i2ii/i2ii.env\n"
    )
