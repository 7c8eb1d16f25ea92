"""Checks of the host: can the workers and the server run?"""

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

from i2ii_spool.errors import DriverError, SettingsError
from i2ii_spool.host import gpus
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.server.auth import tokens
from i2ii_spool.settings import LOOPBACK, Settings
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerState, list_workers
from i2ii_spool.spool.maintenance import lease_seconds

SYSTEMD = Path("/run/systemd/system")
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
SYSTEMCTL_TIMEOUT_SECONDS = 60.0
TORCH_TIMEOUT_SECONDS = 300.0
ASK_TORCH = """\
import json, torch
print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))
"""
INSTALL = f"{sys.prefix}/bin/pip install 'i2ii[qwen]'"


def check_workers(settings: Settings) -> Iterator[Finding]:
    """A worker is running, and none is dead or degraded."""
    spool = Spool(settings.spool)
    workers = list_workers(spool, lease=lease_seconds(spool, settings))
    for worker in workers:
        name, state, note = worker.status.worker, worker.status.state, worker.status.note
        if not worker.alive:
            yield warning("workers", f"{name} is dead", f"journalctl I2II_WORKER={name} -n 20")
        elif state is WorkerState.DEGRADED:
            message = f"{name} is degraded: {note}"
            yield warning("workers", message, "i2ii ls failed, then i2ii show ID")
        elif note:
            yield warning("workers", f"{name}: {note}", "nvidia-smi, and look for `Xid` in dmesg")
    alive = [f"{each.status.worker} {each.status.state}" for each in workers if each.alive]
    if alive:
        yield ok("workers", ", ".join(alive))
    else:
        cure = "start one with systemctl start i2ii-gpu@0, or i2ii gpu 0"
        yield warning("workers", "no workers are running: jobs wait", cure)


def check_time_service(_settings: Settings) -> Iterator[Finding]:
    """The clock of this host is synchronised."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # modes 0: read only
    if state == TIME_ERROR:
        yield warning("time service", "this clock is not synchronised", "timedatectl set-ntp true")
    elif state >= 0:
        yield ok("time service", "this clock is synchronised")
    else:
        yield ok("time service", "cannot be read here")


def check_units(_settings: Settings) -> Iterator[Finding]:
    """The units are installed, and none has failed."""
    if not SYSTEMD.exists() or shutil.which("systemctl") is None:
        yield ok("units", "systemd does not run here; `i2ii up` runs without it")
        return
    listed = _systemctl("list-units", "--all", "--plain", "--no-legend", "i2ii*").splitlines()
    failed = [line.split()[0] for line in listed if line.split()[2] == "failed"]
    for unit in failed:
        result, status = (
            _systemctl("show", "--value", "-p", name, unit).strip()
            for name in ("Result", "StatusText")
        )
        yield error(
            "units",
            f"{unit} has failed ({result}): {status or 'it reported no status'}",
            f"journalctl -u {unit} -n 20; then systemctl reset-failed {unit} "
            f"&& systemctl start {unit}",
        )
    if not _systemctl("list-unit-files", "--no-legend", "i2ii*"):
        message = "not installed: nothing starts after a reboot"
        yield warning("units", message, f"{sys.prefix}/bin/i2ii units install")
    elif not failed:
        active = [line.split()[0] for line in listed if line.split()[2] == "active"]
        message = ", ".join(active) or "installed, not started: systemctl start i2ii.target"
        yield ok("units", message)


def _systemctl(*arguments: str) -> str:
    answer = subprocess.run(
        ["systemctl", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SYSTEMCTL_TIMEOUT_SECONDS,
        check=False,
    )
    return answer.stdout


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """Every GPU answers, and there is one for the engine that is set."""
    try:
        devices, sick = gpus.survey()
    except DriverError as problem:
        cure = "reboot after an upgrade of the driver; else look for `Xid` in dmesg"
        yield error("gpus", str(problem), cure)
        return
    for each in sick:
        cure = "look for `Xid` in dmesg; nvidia-smi --gpu-reset, or a reboot"
        yield error("gpus", str(each), cure)
    if devices:
        names = ", ".join(f"{device.number} {device.name} {device.uuid}" for device in devices)
        yield ok("gpus", f"{names}; {_driver()}")
    elif sick:
        return
    elif settings.engine == "classic":
        yield ok("gpus", "none, and the classic engine needs none")
    else:
        result = (
            "the classic engine edits"
            if settings.engine == "auto"
            else "on a CPU, Qwen-Image-Edit takes hours"
        )
        cure = "install NVIDIA's driver, or set I2II_ENGINE=classic"
        yield warning("gpus", f"none: {result}", cure)


def _driver() -> str:
    try:
        versions = gpus.driver_versions()
    except DriverError:
        versions = None
    if versions is None:
        return "the driver does not tell its version"
    return f"driver {versions[0]}, CUDA up to {versions[1]}"


def _needs_model(settings: Settings) -> bool:
    if settings.engine != "auto":
        return settings.engine == "qwen"
    try:
        return bool(gpus.devices())
    except DriverError:
        return True


def check_torch(settings: Settings) -> Iterator[Finding]:
    """Torch is installed, and its build fits the driver."""
    if not _needs_model(settings):
        return
    if importlib.util.find_spec("torch") is None:
        yield error("torch", "not installed, and the qwen engine needs it", INSTALL)
        return
    asked = subprocess.run(
        [sys.executable, "-c", ASK_TORCH],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TORCH_TIMEOUT_SECONDS,
        check=False,
    )
    if asked.returncode:
        yield error("torch", f"cannot be loaded: {asked.stderr.strip().splitlines()[-1]}", INSTALL)
        return
    version, built_for, sees_gpu = json.loads(asked.stdout)
    build = f"{version}, built for {f'CUDA {built_for}' if built_for else 'no GPU'}"
    driver = gpus.driver_versions()
    if driver is None:
        yield ok("torch", build)
    # Within one major version, CUDA's minor versions are compatible.
    elif built_for is None or int(built_for.split(".")[0]) > int(driver[1].split(".")[0]):
        yield error(
            "torch",
            f"{build}; the driver serves CUDA up to {driver[1]}",
            f"install a build for CUDA {driver[1]} or older "
            "(https://pytorch.org/get-started/locally), or a newer driver",
        )
    elif not sees_gpu:
        cure = "ls -l /dev/nvidia*, nvidia-smi, echo $CUDA_VISIBLE_DEVICES"
        yield error("torch", f"{build}; it sees no GPU", cure)
    else:
        yield ok("torch", build)


def check_model(settings: Settings) -> Iterator[Finding]:
    """The weights are on this machine."""
    if not _needs_model(settings):
        yield ok("model", "the classic engine needs none")
        return
    from i2ii_spool.engines.diffusers import loading

    try:
        yield ok("model", str(loading.find(settings.model, settings.model_source)))
    except SettingsError as problem:
        yield error("model", str(problem), "i2ii model fetch, as the user of the daemons")


def check_port(settings: Settings) -> Iterator[Finding]:
    """The port is free, or an i2ii server listens on it."""
    address = f"{settings.host}:{settings.port}"
    cure = f"ss -ltnp 'sport = {settings.port}'; or I2II_PORT"
    try:
        with urllib.request.urlopen(f"http://{address}/livez", timeout=5) as answer:
            is_i2ii = json.load(answer) == {"status": "alive"}
    except (urllib.error.HTTPError, ValueError):
        is_i2ii = False
    except OSError:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            with socket.create_server((settings.host, settings.port), family=family):
                yield ok("port", f"{address} is free; no server runs")
        except OSError as problem:
            message = f"nothing answers on {address}, and it cannot be bound: {problem.strerror}"
            yield error("port", message, cure)
        return
    if is_i2ii:
        yield ok("port", f"the server answers on {address}")
    else:
        yield error("port", f"another program answers on {address}", cure)


def check_access(settings: Settings) -> Iterator[Finding]:
    """Clients of other hosts need a token."""
    file, host = settings.tokens_file, settings.host
    if file is not None:
        try:
            valid, faults = tokens.parse(file)
        except SettingsError as problem:
            yield error("access", str(problem), f"mend it: i2ii token names --tokens-file {file}")
            return
        for fault in faults:
            yield error("access", str(fault), f"mend it: i2ii token names --tokens-file {file}")
        if valid:
            operators = sum(token.is_operator for token in valid)
            message = f"a token is required; {file} has {len(valid)}, {operators} of operators"
            yield ok("access", message)
        else:
            message = f"{file} has no token: every request gets 401"
            yield warning("access", message, f"i2ii token add NAME --tokens-file {file}")
    elif settings.api_token is not None:
        yield ok("access", "a token is required: that of I2II_API_TOKEN")
    elif host in LOOPBACK:
        yield ok("access", f"{host} can be reached from this machine only")
    else:
        yield warning(
            "access",
            f"every client that reaches {host} may submit, read and delete jobs",
            "i2ii token add NAME --tokens-file /etc/i2ii/tokens, "
            "and I2II_TOKENS_FILE=/etc/i2ii/tokens",
        )
