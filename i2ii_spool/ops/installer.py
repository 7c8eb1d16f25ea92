"""`i2ii units`: install the units of `systemd/`, adapted to this environment, spool and GPUs.

Installing again, after an upgrade or with another card, writes the same files. An operator's own
changes belong in drop-ins (`systemctl edit i2ii-gpu@0`) and in i2ii.env, which stay as they are.
"""

import os
import re
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
from i2ii_spool.settings import (
    ENV_FILE,
    ENV_PREFIX,
    SECRETS,
    USER_ENV_FILE,
    Settings,
    about,
    groups,
    load,
    meaning,
    source,
    variable,
)

SHIPPED = files("i2ii_spool") / "systemd"
HOME, SPOOL = Path("/var/lib/i2ii"), Path("/var/lib/i2ii/spool")
COMMAND = "/opt/i2ii/bin/i2ii"
ADDRESS = "127.0.0.1:8000"
ENABLED = (
    *("i2ii.target", "i2ii-http.socket", "i2ii-http.service", "i2ii-gc.timer"),
    "i2ii-webhooks.service",
)
UNITS = (*ENABLED, "i2ii-gpu@.service", "i2ii-gc.service", "i2ii-devices.service")
NOT_FOR_USERS = ("i2ii-devices.service",)
FIRST_WITH_BACKOFF = 254
BACKOFF = """\
# Wait longer after each failure: 2 s, 5 s, 11 s, 26 s, then a minute.
RestartSteps=4
RestartMaxDelaySec=1min
"""
SANDBOX = "# --- sandbox"
UNIT_HEADER = """\
# Written by `i2ii units install`, which overwrites it; change it with `systemctl edit {name}`.
"""
ENVIRONMENT_HEADER = """\
# Settings of i2ii. The daemons read them when they start, the `i2ii` command when it runs.
# `systemctl reload i2ii-http` applies those marked (reload); the others need a restart.
"""


@dataclass(frozen=True)
class InstallTarget:
    """Where the units go: into the system at `root`, or to the user that runs the command."""

    root: Path
    is_users: bool

    @classmethod
    def at(cls, prefix: Path, *, user_mode: bool) -> "InstallTarget":
        """Return the target at `prefix`. Raises `SettingsError` if units cannot go there."""
        target = cls(prefix.resolve(), user_mode)
        if user_mode and not target.is_this_system:
            raise SettingsError("--prefix and --user-mode exclude each other: leave one out")
        if not user_mode and target.is_this_system and os.geteuid() != 0:
            raise SettingsError(
                "only root may install units for the system: use sudo, or --user-mode for your own"
            )
        if shutil.which("systemctl") is None:
            raise SettingsError(
                "systemctl is not there: the units need systemd; `i2ii up` runs without it"
            )
        return target

    @property
    def units(self) -> Path:
        """The folder of the unit files."""
        if self.is_users:
            return USER_ENV_FILE.parents[1] / "systemd/user"
        return self.root / "etc/systemd/system"

    @property
    def environment(self) -> Path:
        """The file of settings that the daemons will read."""
        return USER_ENV_FILE if self.is_users else self.root / ENV_FILE.relative_to("/")

    @property
    def default_spool(self) -> Path:
        """The spool if none is set."""
        return Path.home() / ".local/share/i2ii/spool" if self.is_users else SPOOL

    @property
    def is_this_system(self) -> bool:
        """Whether the target is the running system, not an image of another one."""
        return self.root == Path("/")

    def systemctl(self, *arguments: str) -> list[str]:
        """Return the systemctl command line for this target."""
        if self.is_users:
            return ["systemctl", "--user", *arguments]
        return self.tool("systemctl", *arguments)

    def tool(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of a tool of systemd, like systemd-sysusers, for this target."""
        return [name, *([] if self.is_this_system else [f"--root={self.root}"]), *arguments]

    def load(self) -> Settings:
        """Return the settings that the daemons there will read. Raises `SettingsError`."""
        set_here = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
        if set_here and self.environment.exists():
            raise SettingsError(
                f"{set_here[0]} is set in your environment, which the units do not see: "
                f"write it into {self.environment}, and `unset {set_here[0]}`"
            )
        return load(files=[self.environment])

    def is_set(self, name: str) -> bool:
        """Whether a setting has another source than its default."""
        return source(name, {}, [self.environment]) != "the default"


class Installer:
    """Installs and removes; prints each step, and with `dry_run` does nothing else."""

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run

    def write(self, path: Path, text: str) -> None:
        """Write a file unless it already has this text."""
        before = path.read_text("utf-8", "surrogateescape") if path.exists() else None
        self._say("unchanged" if before == text else "write" if before is None else "change", path)
        if before != text and not self._dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")

    def keep(self, path: Path) -> None:
        """Say that a file stays as it is."""
        self._say("keep", path)

    def remove(self, path: Path) -> None:
        """Remove a file, and its folder of drop-ins if that is then empty."""
        self._say("remove", path)
        if not self._dry_run:
            path.unlink()
            if path.parent.name.endswith(".d") and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def run(self, command: Sequence[str]) -> None:
        """Run a command. Raises `SettingsError` if it is not installed or fails."""
        self._say("run", shlex.join(command))
        if self._dry_run:
            return
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise SettingsError(f"{command[0]} is not there: the units need systemd") from error
        except subprocess.CalledProcessError as error:
            raise SettingsError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error

    def _say(self, what: str, of: object) -> None:
        click.echo(f"{what:<9} {of}")


# --- install --------------------------------------------------------------------------------------


def install(target: InstallTarget, *, dry_run: bool) -> list[str]:
    """Write the units, enable them for the GPUs found, and return the instances.

    Raises `SettingsError`.
    """
    os.umask(0o022)  # units and settings may be read by every user
    command = _installed_command(target)
    installer = Installer(dry_run=dry_run)
    settings = target.load()
    spool = settings.spool if target.is_set("spool") else target.default_spool
    if not spool.is_absolute():
        raise SettingsError(f"spool must be an absolute path for units, got {spool}", field="spool")
    secret = next(filter(target.is_set, SECRETS), None)
    if secret is not None and not target.environment.exists():
        raise SettingsError(
            f"{variable(secret)} is set, and {target.environment} will be readable for all; "
            "unset it, and after the installation write it there and chmod 640 the file",
            field=secret,
        )
    found = _gpus(settings)
    instances = [device.id for device in found] or ["0"]
    for path, text in _files(settings, target, command, spool, found):
        installer.write(path, text)
    if target.environment.exists():
        installer.keep(target.environment)
    else:
        installer.write(target.environment, _environment_file(settings, target, spool))
    if not target.is_users:
        installer.run(target.tool("systemd-sysusers", "i2ii.conf"))
        installer.run(target.tool("systemd-tmpfiles", "--create", "i2ii.conf"))
    if target.is_this_system:
        installer.run(target.systemctl("daemon-reload"))
    workers = [f"i2ii-gpu@{instance}.service" for instance in instances]
    installer.run(target.systemctl("enable", *ENABLED, *workers))
    return instances


def _gpus(settings: Settings) -> list[gpus.Device]:
    """Return the GPUs that answer, and print those that do not. Raises `DriverError`."""
    found, sick = gpus.survey(optional=settings.engine == "classic")
    for each in sick:
        click.echo(f"i2ii: {each}; its unit is not enabled", err=True)
    return found


def _installed_command(target: InstallTarget) -> Path:
    """Return the `i2ii` of this environment. Raises `SettingsError` if the units cannot run it."""
    command = Path(sys.prefix) / "bin/i2ii"
    if target.is_this_system and not command.exists():
        raise SettingsError(
            f"there is no {command}: install i2ii into this environment, pip install i2ii"
        )
    # The sandbox of the units hides /home and /root.
    for path in () if target.is_users else (command, Path(sys.executable).resolve()):
        if path.is_relative_to("/root") or path.is_relative_to("/home"):
            raise SettingsError(
                f"{path} is in a home directory, which the units cannot read; install elsewhere: "
                "/usr/bin/python3 -m venv /opt/i2ii && /opt/i2ii/bin/pip install i2ii"
            )
    return command


def _files(
    settings: Settings, target: InstallTarget, command: Path, spool: Path, found: list[gpus.Device]
) -> Iterator[tuple[Path, str]]:
    """Yield each file to write, apart from the settings, with its text."""
    for name in UNITS:
        if not (target.is_users and name in NOT_FOR_USERS):
            text = _adapted((SHIPPED / name).read_text(), settings, target, command, spool)
            yield target.units / name, UNIT_HEADER.format(name=name) + text
    if target.is_users:
        return
    yield target.root / "etc/sysusers.d/i2ii.conf", (SHIPPED / "i2ii.sysusers").read_text()
    tmpfiles = re.sub(
        rf"{SPOOL}(\S*)",
        lambda match: _quoted(f"{spool}{match[1]}"),
        (SHIPPED / "i2ii.tmpfiles").read_text(),
    )
    yield target.root / "etc/tmpfiles.d/i2ii.conf", tmpfiles
    for device in found:
        if device.minor is None:
            continue
        allow = f"DeviceAllow=/dev/nvidia{device.minor} rw"
        drop_in = f"# The device file of this card.\n[Service]\n{allow}\n"
        yield target.units / f"i2ii-gpu@{device.uuid}.service.d/card.conf", drop_in


def _adapted(
    text: str, settings: Settings, target: InstallTarget, command: Path, spool: Path
) -> str:
    """Return a unit with the command, the address and the spool of this installation."""
    text = text.replace(COMMAND, str(command))
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.split()[1]) >= FIRST_WITH_BACKOFF:
        text = text.replace("\nRestartSec=2\n", f"\nRestartSec=2\n{BACKOFF}")
    text = text.replace(f"ListenStream={ADDRESS}", f"ListenStream={_address(settings)}")
    if target.is_users:
        return _without_sandbox(text)
    # The worker writes into the cache of models as well.
    text = text.replace(f"ReadWritePaths={SPOOL}\n", f"ReadWritePaths={_quoted(str(spool))}\n")
    if not spool.is_relative_to(HOME):
        more = f"ReadWritePaths={HOME} {_quoted(str(spool))}\n"
        text = text.replace(f"ReadWritePaths={HOME}\n", more)
    return text


def _quoted(path: str) -> str:
    """Return a path as units and tmpfiles.d(5) want it: `%` doubled, in quotes if it must be."""
    path = path.replace("%", "%%")
    if re.fullmatch(r"[\w%+,./:@=-]+", path):
        return path
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _address(settings: Settings) -> str:
    """Return the address of the socket unit. Raises `SettingsError` if it cannot be one."""
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    if settings.port == 0:
        raise SettingsError(
            "port must not be 0 for units: clients could not know the port", field="port"
        )
    try:
        is_ipv6 = ip_address(host).version == 6
    except ValueError:
        raise SettingsError(
            f"host must be an address for units, got {host!r}; try 0.0.0.0", field="host"
        ) from None
    return f"[{host}]:{settings.port}" if is_ipv6 else f"{host}:{settings.port}"


def _without_sandbox(text: str) -> str:
    """Return a unit for a user's manager, which cannot change the user or build the sandbox."""
    before, sandbox, after = text.partition(SANDBOX)
    if sandbox:
        after = after[after.index("\n[Install]") :] if "\n[Install]" in after else ""
    lines = before.splitlines(keepends=True)
    kept = "".join(
        line for line in lines if not line.startswith(("User=", "Group=", "Environment="))
    )
    kept = kept.replace("WantedBy=multi-user.target", "WantedBy=default.target")
    return kept + after.lstrip("\n")


def _environment_file(settings: Settings, target: InstallTarget, spool: Path) -> str:
    """Return every setting with its meaning; all are comments but the spool and what is set."""
    lines = [ENVIRONMENT_HEADER]
    for group, names in groups().items():
        lines.append(f"\n# --- {group}\n")
        for name in names:
            value = spool if name == "spool" else getattr(settings, name)
            reload = " (reload)" if about(name).reloadable else ""
            mark = "" if name == "spool" or target.is_set(name) else "#"
            lines.append(f"# {meaning(name)}{reload}\n")
            lines.append(f"{mark}{variable(name)}={'' if value is None else value}\n")
    return "".join(lines)


# --- remove ---------------------------------------------------------------------------------------


def remove(target: InstallTarget, *, dry_run: bool) -> None:
    """Stop the service, let it drain, and remove what `install` has written.

    The settings, the user and the jobs stay.
    """
    installer = Installer(dry_run=dry_run)
    paths = [target.units / name for name in UNITS]
    paths += sorted(target.units.glob("i2ii-gpu@*.service.d/card.conf"))
    if not target.is_users:
        paths += [target.root / f"etc/{folder}.d/i2ii.conf" for folder in ("sysusers", "tmpfiles")]
    written = [path for path in paths if path.exists()]
    if target.is_this_system and written:
        installer.run(target.systemctl("stop", "i2ii.target", "i2ii-gpu@*.service", *ENABLED))
    enabled = sorted({path.name for path in target.units.glob("*.wants/i2ii*")})
    if enabled:
        installer.run(target.systemctl("disable", *enabled))
    for path in written:
        installer.remove(path)
    if target.is_this_system and written:
        installer.run(target.systemctl("daemon-reload"))
    if target.environment.exists():
        installer.keep(target.environment)
