"""`i2ii units`: puts the units of `systemd/` in target for this environment, this spool and the
GPUs of this machine.

What is written can be written again, after an upgrade or with another card: the same files result.
Changes of an operator's own belong into drop-ins (`systemctl edit i2ii-gpu@0`) and into i2ii.env,
which are never touched.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

import click

from i2ii_spool.errors import SettingsError
from i2ii_spool.host import gpus
from i2ii_spool.settings import ENV_FILE, ENV_PREFIX, USER_ENV_FILE, Settings, load, source

SHIPPED = files("i2ii_spool") / "systemd"
HOME, SPOOL = Path("/var/lib/i2ii"), Path("/var/lib/i2ii/spool")
COMMAND = "/opt/i2ii/bin/i2ii"
ADDRESS = "127.0.0.1:8000"
ENABLED = ("i2ii.target", "i2ii-http.socket", "i2ii-http.service", "i2ii-gc.timer")
UNITS = (*ENABLED, "i2ii-gpu@.service", "i2ii-gc.service", "i2ii-devices.service")
NOT_FOR_USERS = ("i2ii-devices.service",)
FIRST_WITH_BACKOFF = 254
BACKOFF = """\
# Ever later while it keeps failing: after 2 s, 5 s, 11 s, 26 s, then every minute.
RestartSteps=4
RestartMaxDelaySec=1min
"""
SANDBOX = "# --- sandbox"
HEADER = "# Written by `i2ii units install`, which writes it again; changes belong into `systemctl edit {name}`.\n"


@dataclass(frozen=True)
class InstallTarget:
    """Where the units go: into the system under `root`, or to the user who asks."""

    root: Path
    is_users: bool

    @property
    def units(self) -> Path:
        """The folder of the unit files."""
        return (
            USER_ENV_FILE.parents[1] / "systemd/user"
            if self.is_users
            else self.root / "etc/systemd/system"
        )

    @property
    def environment(self) -> Path:
        """The file of settings that the daemons will read."""
        return USER_ENV_FILE if self.is_users else self.root / ENV_FILE.relative_to("/")

    @property
    def spool(self) -> Path:
        """The spool, where none is set."""
        return Path.home() / ".local/share/i2ii/spool" if self.is_users else SPOOL

    @property
    def is_this_system(self) -> bool:
        """Whether they are for the system that runs here, rather than for an image of one."""
        return self.root == Path("/")

    def systemctl(self, *arguments: str) -> list[str]:
        """The command that enables or disables here."""
        scope = (
            ["--user"] if self.is_users else [] if self.is_this_system else [f"--root={self.root}"]
        )
        return ["systemctl", *scope, *arguments]

    def tool(self, name: str, *arguments: str) -> list[str]:
        """The command of systemd's that makes users or files here."""
        return [name, *([] if self.is_this_system else [f"--root={self.root}"]), *arguments]


class Steps:
    """Does each thing and says so, or only says so."""

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run

    def write(self, path: Path, text: str) -> None:
        """Have this text in this file."""
        before = path.read_text() if path.exists() else None
        self._say("unchanged" if before == text else "write" if before is None else "change", path)
        if before != text and not self._dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def keep(self, path: Path) -> None:
        """Leave a file as it is."""
        self._say("keep", path)

    def remove(self, path: Path) -> None:
        """Have no such file, nor the folder that held it alone."""
        self._say("remove", path)
        if not self._dry_run:
            path.unlink()
            if path.parent.name.endswith(".d") and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def run(self, command: Sequence[str]) -> None:
        """Run a command. Raises `SettingsError` if it is not there or fails."""
        self._say("run", shlex.join(command))
        if self._dry_run:
            return
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise SettingsError(
                f"{command[0]} is not there; these units are for systemd"
            ) from error
        except subprocess.CalledProcessError as error:
            raise SettingsError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error

    def _say(self, what: str, of: object) -> None:
        click.echo(f"{what:<9} {of}")


# --- install --------------------------------------------------------------------------------------


def install(target: InstallTarget, *, dry_run: bool) -> list[str]:
    """Write the units and enable them for the GPUs found; return the instances. Raises
    `SettingsError`."""
    os.umask(0o022)  # units and settings are for everybody to read
    command = _command(target)
    if not target.is_users:
        _check_readable(command)
    steps = Steps(dry_run=dry_run)
    settings = _settings_of(target)
    spool = settings.spool if _is_set("spool", target) else target.spool
    if not spool.is_absolute():
        raise SettingsError(f"spool must be an absolute path for units, got {spool}", field="spool")
    instances = [
        device.uuid if device.is_slice else str(device.minor) for device in gpus.devices()
    ] or ["0"]
    for path, text in _files(settings, target, command, spool):
        steps.write(path, text)
    if target.environment.exists():
        steps.keep(target.environment)
    else:
        steps.write(target.environment, _environment_file(settings, target, spool))
    for command_line in _commands(target, instances):
        steps.run(command_line)
    return instances


def _settings_of(target: InstallTarget) -> Settings:
    """What the daemons there will read."""
    set_here = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    if set_here and target.environment.exists():
        raise SettingsError(
            f"{set_here[0]} is set in your environment, which the units will not see: write it into "
            f"{target.environment}, and `unset {set_here[0]}`"
        )
    return load(files=[target.environment])


def _is_set(name: str, target: InstallTarget) -> bool:
    return source(name, {}, [target.environment]) != "the default"


def _command(target: InstallTarget) -> Path:
    command = Path(sys.prefix) / "bin/i2ii"
    if target.is_this_system and not command.exists():
        raise SettingsError(
            f"there is no {command}; install i2ii into this environment: pip install i2ii"
        )
    return command


def _check_readable(command: Path) -> None:
    """The units see no home: neither the environment nor its Python may lie there."""
    for path in (command, Path(sys.executable).resolve()):
        if path.is_relative_to("/root") or path.is_relative_to("/home"):
            raise SettingsError(
                f"{path} lies in a home, which the units may not read; install elsewhere: "
                "/usr/bin/python3 -m venv /opt/i2ii && /opt/i2ii/bin/pip install i2ii"
            )


def _files(
    settings: Settings, target: InstallTarget, command: Path, spool: Path
) -> Iterator[tuple[Path, str]]:
    for name in UNITS:
        if not (target.is_users and name in NOT_FOR_USERS):
            text = (SHIPPED / name).read_text()
            yield (
                target.units / name,
                HEADER.format(name=name) + _adapted(text, settings, target, command, spool),
            )
    if target.is_users:
        return
    yield target.root / "etc/sysusers.d/i2ii.conf", (SHIPPED / "i2ii.sysusers").read_text()
    yield (
        target.root / "etc/tmpfiles.d/i2ii.conf",
        _moved((SHIPPED / "i2ii.tmpfiles").read_text(), spool),
    )
    for device in gpus.devices():
        drop_in = f"# Which card this is.\n[Service]\nDeviceAllow=/dev/nvidia{device.minor} rw\n"
        yield target.units / f"i2ii-gpu@{device.uuid}.service.d/card.conf", drop_in


def _adapted(
    text: str, settings: Settings, target: InstallTarget, command: Path, spool: Path
) -> str:
    text = text.replace(COMMAND, str(command))
    if _systemd_version() >= FIRST_WITH_BACKOFF:
        text = text.replace("\nRestartSec=2\n", f"\nRestartSec=2\n{BACKOFF}")
    text = text.replace(f"ListenStream={ADDRESS}", f"ListenStream={_address(settings)}")
    if target.is_users:
        return _for_a_user(text)
    if not spool.is_relative_to(HOME):
        text = text.replace(f"ReadWritePaths={HOME}", f"ReadWritePaths={HOME} {spool}")
    return text


def _systemd_version() -> int:
    first = subprocess.run(
        ["systemctl", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    return int(first)


def _address(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    if settings.port == 0:
        raise SettingsError(
            "port must not be 0 for units: clients could not know which", field="port"
        )
    try:
        return (
            f"[{host}]:{settings.port}"
            if ip_address(host).version == 6
            else f"{host}:{settings.port}"
        )
    except ValueError:
        raise SettingsError(
            f"host must be an address for units, got {host!r}; try 0.0.0.0", field="host"
        ) from None


def _for_a_user(text: str) -> str:
    """A user's manager can neither change the user nor build this sandbox."""
    before, sandbox, after = text.partition(SANDBOX)
    if sandbox:
        after = after[after.index("\n[Install]") :] if "\n[Install]" in after else ""
    lines = [
        line
        for line in before.splitlines(keepends=True)
        if not line.startswith(("User=", "Group="))
    ]
    return "".join(lines).replace(
        "WantedBy=multi-user.target", "WantedBy=default.target"
    ) + after.lstrip("\n")


def _moved(text: str, spool: Path) -> str:
    return text.replace(str(SPOOL), str(spool))


def _environment_file(settings: Settings, target: InstallTarget, spool: Path) -> str:
    """Every setting with its meaning, commented out but for the spool and for what is set already."""
    lines = [
        "# Settings of i2ii, read by the daemons when they start and by the `i2ii` command.",
        "# `systemctl reload i2ii-http` takes new limits at the door; all others take a restart.",
    ]
    for name, field in Settings.model_fields.items():
        value = spool if name == "spool" else getattr(settings, name)
        mark = "" if name == "spool" or _is_set(name, target) else "#"
        lines += [
            "",
            f"# {field.description}",
            f"{mark}{ENV_PREFIX}{name.upper()}={'' if value is None else value}",
        ]
    return "\n".join(lines) + "\n"


def _commands(target: InstallTarget, instances: list[str]) -> Iterator[list[str]]:
    if not target.is_users:
        yield target.tool("systemd-sysusers", "i2ii.conf")
        yield target.tool("systemd-tmpfiles", "--create", "i2ii.conf")
    if target.is_this_system:
        yield target.systemctl("daemon-reload")
    yield target.systemctl(
        "enable", *ENABLED, *(f"i2ii-gpu@{instance}.service" for instance in instances)
    )


# --- remove ---------------------------------------------------------------------------------------


def remove(target: InstallTarget, *, dry_run: bool) -> None:
    """Stop what runs, let it drain, and remove what `install` has written, but for the settings,
    the user, the jobs."""
    steps = Steps(dry_run=dry_run)
    written = [path for path in _written(target) if path.exists()]
    if target.is_this_system and written:
        steps.run(target.systemctl("stop", "i2ii.target", "i2ii-gpu@*.service", *ENABLED))
    enabled = sorted({path.name for path in target.units.glob("*.wants/i2ii*")})
    if enabled:
        steps.run(target.systemctl("disable", *enabled))
    for path in written:
        steps.remove(path)
    if target.is_this_system and written:
        steps.run(target.systemctl("daemon-reload"))
    if target.environment.exists():
        steps.keep(target.environment)


def _written(target: InstallTarget) -> Iterator[Path]:
    yield from (target.units / name for name in UNITS)
    yield from sorted(target.units.glob("i2ii-gpu@*.service.d/card.conf"))
    if not target.is_users:
        yield from (
            target.root / f"etc/{folder}.d/i2ii.conf" for folder in ("sysusers", "tmpfiles")
        )


def target_for(prefix: Path, *, user_mode: bool) -> InstallTarget:
    """Return where units go. Raises `SettingsError` where they cannot."""
    target = InstallTarget(prefix.resolve(), user_mode)
    if user_mode and not target.is_this_system:
        raise SettingsError(
            "--prefix is for a system's tree; a user's units go to that user's own folder"
        )
    if not user_mode and target.is_this_system and os.geteuid() != 0:
        raise SettingsError(
            "only root may install units for the system; use sudo, or --user-mode for your own"
        )
    if shutil.which("systemctl") is None:
        raise SettingsError(
            "systemctl is not there; these units are for systemd, and `i2ii up` does without"
        )
    return target
