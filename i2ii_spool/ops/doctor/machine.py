"""Whether what works on the spool can work."""

import ctypes
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from i2ii_spool.errors import EngineBroken, SettingsError
from i2ii_spool.host import gpus as driver
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.server.auth import tokens
from i2ii_spool.settings import LOOPBACK, Settings
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerState, list_workers

SYSTEMD = Path("/run/systemd/system")
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
PATIENCE = 60.0
ASK_TORCH = "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))"
INSTALL = f"{sys.prefix}/bin/pip install 'i2ii[qwen]'"


def workers(settings: Settings) -> Iterator[Finding]:
    """Somebody works."""
    seen = list_workers(Spool(settings.spool), lease=settings.lease_seconds)
    for worker in seen:
        name, state, note = worker.status.worker, worker.status.state, worker.status.note
        if not worker.alive:
            yield warning("workers", f"{name} is dead", f"journalctl I2II_WORKER={name} -n 20")
        elif state is WorkerState.DEGRADED:
            yield warning(
                "workers", f"{name} is degraded: {note}", "i2ii ls failed, then i2ii show ID"
            )
    if any(worker.alive for worker in seen):
        yield ok(
            "workers",
            ", ".join(f"{seen.status.worker} {seen.status.state}" for seen in seen if seen.alive),
        )
    else:
        yield warning(
            "workers", "none lives: jobs wait", "systemctl start i2ii-gpu@0, or i2ii gpu 0"
        )


def synchronised(_settings: Settings) -> Iterator[Finding]:
    """This machine's clock follows others."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # modes 0: only ask
    if state == TIME_ERROR:
        yield warning("time service", "this clock is not synchronised", "timedatectl set-ntp true")
    else:
        yield ok(
            "time service", "this clock is synchronised" if state >= 0 else "cannot be asked here"
        )


def units(_settings: Settings) -> Iterator[Finding]:
    """The units are there, and none has failed."""
    if not SYSTEMD.exists() or shutil.which("systemctl") is None:
        yield ok("units", "systemd does not run here; `i2ii up` does without")
        return
    listed = _systemctl("list-units", "--all", "--plain", "--no-legend", "i2ii*").splitlines()
    failed = [line.split()[0] for line in listed if line.split()[2] == "failed"]
    for unit in failed:
        result, said = (
            _systemctl("show", "--value", "-p", name, unit).strip()
            for name in ("Result", "StatusText")
        )
        cure = f"journalctl -u {unit} -n 20; then systemctl reset-failed {unit} && systemctl start {unit}"
        yield error("units", f"{unit} has failed ({result}): {said or 'it has said nothing'}", cure)
    if not _systemctl("list-unit-files", "--no-legend", "i2ii*"):
        yield warning(
            "units",
            "not installed: nothing starts after a reboot",
            f"{sys.prefix}/bin/i2ii units install",
        )
    elif not failed:
        active = [line.split()[0] for line in listed if line.split()[2] == "active"]
        yield ok(
            "units", ", ".join(active) or "installed, not started: systemctl start i2ii.target"
        )


def _systemctl(*arguments: str) -> str:
    asked = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return asked.stdout


def gpus(settings: Settings) -> Iterator[Finding]:
    """The engine that is set has a GPU."""
    try:
        found, versions = driver.devices(), driver.driver_versions()
    except EngineBroken as problem:
        yield error(
            "gpus",
            str(problem),
            "reboot after an upgrade of the driver; else look for `Xid` in dmesg",
        )
        return
    if found and versions is not None:
        names = ", ".join(f"{device.minor} {device.name} {device.uuid}" for device in found)
        yield ok("gpus", f"{names}; driver {versions[0]}, CUDA up to {versions[1]}")
    elif settings.engine == "classic":
        yield ok("gpus", "none, and the classic engine needs none")
    else:
        cure = "install NVIDIA's driver, or set I2II_ENGINE=classic"
        what = (
            "the classic engine edits"
            if settings.engine == "auto"
            else "on a CPU, Qwen-Image-Edit takes hours"
        )
        yield warning("gpus", f"none: {what}", cure)


def torch(settings: Settings) -> Iterator[Finding]:
    """Torch is there, and fits the driver."""
    if not _needs_model(settings):
        return
    if importlib.util.find_spec("torch") is None:
        yield error("torch", "not installed, and the qwen engine needs it", INSTALL)
        return
    asked = subprocess.run(
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=300, check=False
    )
    if asked.returncode:
        yield error("torch", f"cannot be loaded: {asked.stderr.strip().splitlines()[-1]}", INSTALL)
        return
    version, built_for, is_available = json.loads(asked.stdout)
    yield _matched(version, built_for, is_available=is_available)


def _matched(version: str, built_for: str | None, *, is_available: bool) -> Finding:
    served = driver.driver_versions()
    what = f"{version}, built for {f'CUDA {built_for}' if built_for else 'no GPU'}"
    if served is None:
        return ok("torch", what)
    cure = f"a build for CUDA {served[1]} or older: https://pytorch.org/get-started/locally, or a newer driver"
    # Within one major version, CUDA's minor versions are compatible.
    if built_for is None or int(built_for.split(".")[0]) > int(served[1].split(".")[0]):
        return error("torch", f"{what}; the driver serves CUDA up to {served[1]}", cure)
    if not is_available:
        return error(
            "torch",
            f"{what}; it sees no GPU",
            "ls -l /dev/nvidia*, nvidia-smi, echo $CUDA_VISIBLE_DEVICES",
        )
    return ok("torch", what)


def model(settings: Settings) -> Iterator[Finding]:
    """The weights are on this machine."""
    if not _needs_model(settings):
        yield ok("model", "the classic engine needs none")
        return
    from i2ii_spool.engines.diffusers import loading

    try:
        yield ok("model", str(loading.find(settings.model, settings.model_source)))
    except SettingsError as problem:
        yield error("model", str(problem), "i2ii model fetch, as the user of the daemons")


def _needs_model(settings: Settings) -> bool:
    if settings.engine != "auto":
        return settings.engine == "qwen"
    try:
        return bool(driver.devices())
    except EngineBroken:
        return True


def port(settings: Settings) -> Iterator[Finding]:
    """The port is free, or it is our server that listens there."""
    where = f"{settings.host}:{settings.port}"
    try:
        with urllib.request.urlopen(f"http://{where}/livez", timeout=5) as answer:
            is_ours = json.load(answer) == {"status": "alive"}
    except (urllib.error.HTTPError, ValueError):
        is_ours = False
    except OSError:
        yield _bound(settings, where)
        return
    if is_ours:
        yield ok("port", f"the server answers on {where}")
    else:
        yield error(
            "port",
            f"another program answers on {where}",
            f"ss -ltnp 'sport = {settings.port}'; or I2II_PORT",
        )


def _bound(settings: Settings, where: str) -> Finding:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.create_server((settings.host, settings.port), family=family):
            return ok("port", f"{where} is free; no server runs")
    except OSError as problem:
        return error(
            "port",
            f"nothing answers on {where}, and it cannot be listened on: {problem.strerror}",
            f"ss -ltnp 'sport = {settings.port}'; or I2II_PORT",
        )


def access(settings: Settings) -> Iterator[Finding]:
    """Nobody from outside may submit unasked."""
    if settings.tokens_file is not None:
        yield from _tokens(settings.tokens_file)
    elif settings.api_token is not None:
        yield ok("access", "the token of the environment is required, and no other is valid")
    elif settings.host in LOOPBACK:
        yield ok("access", f"{settings.host} is reachable from this machine alone")
    else:
        cure = "i2ii token add NAME --tokens-file /etc/i2ii/tokens, and I2II_TOKENS_FILE=/etc/i2ii/tokens"
        yield warning(
            "access", f"whoever reaches {settings.host} may submit, look and delete", cure
        )


def _tokens(file: Path) -> Iterator[Finding]:
    try:
        valid = tokens.read(file)
    except SettingsError as problem:
        yield error("access", str(problem), f"mend it: i2ii token names --tokens-file {file}")
        return
    if valid:
        operators = sum(token.is_operator for token in valid)
        yield ok(
            "access", f"a token is required; {file} has {len(valid)}, {operators} of operators"
        )
    else:
        yield warning(
            "access",
            f"{file} holds no token: nobody gets in",
            f"i2ii token add NAME --tokens-file {file}",
        )
