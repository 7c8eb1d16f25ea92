"""`i2ii doctor`: check a whole installation, and name a cure for each problem.

    filesystem   the spool: folders, owner and mode, calls, locks, space, clock
    mounts       the type of its file system, and how it is mounted
    hosts        the hosts that share the spool
    machine      this host: units, workers, GPUs, torch, the model, the port, access

A check leaves nothing behind: it removes the files that it writes.
"""

from collections.abc import Callable, Iterator

from i2ii_spool.ops.doctor import filesystem, hosts, machine
from i2ii_spool.ops.doctor.finding import Finding, Verdict, error
from i2ii_spool.settings import Settings

Check = Callable[[Settings], Iterator[Finding]]

SPOOL_CHECKS: tuple[Check, ...] = (
    hosts.check_format,
    filesystem.check_ownership,
    filesystem.check_writing,
    filesystem.check_calls,
    filesystem.check_file_system,
    filesystem.check_locks,
    filesystem.check_space,
    filesystem.check_clock,
    machine.check_workers,
    hosts.check_hosts,
)
MACHINE_CHECKS: tuple[Check, ...] = (
    machine.check_time_service,
    machine.check_units,
    machine.check_gpus,
    machine.check_torch,
    machine.check_model,
    machine.check_port,
    machine.check_access,
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; those of the spool only if there is one."""
    has_spool = True
    for finding in _run(filesystem.check_spool, settings):
        has_spool = has_spool and finding.verdict is Verdict.OK
        yield finding
    for check in (*(SPOOL_CHECKS if has_spool else ()), *MACHINE_CHECKS):
        yield from _run(check, settings)


def _run(check: Check, settings: Settings) -> Iterator[Finding]:
    """Run a check. A check that fails is a finding too, and ends no other."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        yield from check(settings)
    except OSError as problem:
        cure = "run it as the user of the daemons, or as root"
        yield error(name, f"cannot be checked: {problem}", cure)
    except Exception as problem:
        message = f"cannot be checked: {type(problem).__name__}: {problem}"
        yield error(name, message, "mend what the message names; if it names nothing, report a bug")
