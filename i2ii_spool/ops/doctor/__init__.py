"""`i2ii doctor`: looks at a whole installation, and says of each thing that is wrong what cures it.

    filesystem   the spool: its folders, their owner and mode, the file system below, locks, space, clock
    machine      what works on it: units, workers, GPUs, torch, the model, the port

Nothing that it does lasts: what it writes to see whether it can, it removes.
"""

from collections.abc import Callable, Iterator

from i2ii_spool.ops.doctor import filesystem, machine
from i2ii_spool.ops.doctor.finding import Finding, Verdict, error
from i2ii_spool.settings import Settings

Check = Callable[[Settings], Iterator[Finding]]

OF_THE_SPOOL: tuple[Check, ...] = (
    filesystem.ownership,
    filesystem.writing,
    filesystem.kind,
    filesystem.locks,
    filesystem.space,
    filesystem.clock,
    machine.workers,
)
OF_THE_MACHINE: tuple[Check, ...] = (
    machine.synchronised,
    machine.units,
    machine.gpus,
    machine.torch,
    machine.model,
    machine.port,
    machine.access,
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything; a check that cannot be made is a finding too."""
    has_spool = True
    for finding in _made(filesystem.folders, settings):
        has_spool = has_spool and finding.verdict is Verdict.OK
        yield finding
    for check in (*(OF_THE_SPOOL if has_spool else ()), *OF_THE_MACHINE):
        yield from _made(check, settings)


def _made(check: Check, settings: Settings) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except OSError as problem:
        yield error(
            check.__name__,
            f"cannot be checked: {problem}",
            "run it as the user of the daemons, or as root",
        )
