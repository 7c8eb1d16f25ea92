"""Checks of the hosts that share a spool: do they live, and do they understand each other?"""

from collections.abc import Iterator

from i2ii_spool import __version__
from i2ii_spool.errors import NewerSpool
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.settings import Settings
from i2ii_spool.spool.hosts import by_host
from i2ii_spool.spool.layout import FORMAT, Spool
from i2ii_spool.spool.liveness import list_workers
from i2ii_spool.spool.maintenance import lease_seconds


def check_format(settings: Settings) -> Iterator[Finding]:
    """This version of i2ii knows how the spool is laid out."""
    try:
        Spool(settings.spool).check_format()
    except NewerSpool as problem:
        yield error("format", str(problem), "pip install --upgrade i2ii, as on the other hosts")
    else:
        yield ok("format", f"this version knows the format, {FORMAT} or older")


def check_hosts(settings: Settings) -> Iterator[Finding]:
    """No host is dead, and all run one version of i2ii."""
    spool = Spool(settings.spool)
    hosts = by_host(list_workers(spool, lease=lease_seconds(spool, settings)))
    for host in hosts:
        if not host.alive and len(hosts) > 1:
            message = (
                f"no worker of {host.host} lives; last heard of {host.heartbeat_age:.0f} s ago"
            )
            cure = "start them there; else they are left out once they were silent for 60 leases"
            yield warning("hosts", message, cure)
    alive = [host for host in hosts if host.alive]
    versions = {version for host in alive for version in host.versions} | {__version__}
    shown = [
        f"{host.host} {host.ready_workers} of {len(host.workers)} workers ready "
        f"({', '.join(host.versions)})"
        for host in alive
    ]
    if len(versions) > 1:
        message = f"several versions of i2ii, {__version__} here: {'; '.join(shown)}"
        yield warning("hosts", message, "finish the upgrade: docs/operations.md")
    elif alive:
        yield ok("hosts", "; ".join(shown))
