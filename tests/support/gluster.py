"""GlusterFS: a volume of two replicas, both on this machine."""

from tests.support.fuse import ADDRESS, FuseFolder, Servers, checked, why_not_mount
from tests.support.hosts import Host
from tests.support.service import wait_until

VOLUME = "shared"
UNCACHED = ("--attribute-timeout=0", "--entry-timeout=0")
SERVER_UNCACHED = ("performance.stat-prefetch", "off")
ON_MEMORY = """
mount -t tmpfs state /var/lib/glusterd
mount -t tmpfs run /run
mkdir -p /run/gluster
exec "$@"
"""


def why_not() -> str | None:
    """Why GlusterFS cannot be mounted here, or None."""
    return why_not_mount("glusterd", "gluster", "glusterfs")


class GlusterFolder(FuseFolder):
    """The servers keep their state in memory, and the files in two folders."""

    kind = "glusterfs"

    def _serve(self) -> tuple[str, ...]:
        log = f"{self._folder}/glusterd.log"
        return ("sh", "-ec", ON_MEMORY, "sh", "glusterd", "-N", "-l", log)

    def _prepare(self, servers: Servers) -> None:
        gluster = ("gluster", "--mode=script")
        wait_until(lambda: servers.run(*gluster, "peer", "status").returncode == 0)
        bricks = [f"{ADDRESS}:{self._folder}/brick-{number}" for number in (1, 2)]
        create = ("volume", "create", VOLUME, "replica", "2", *bricks, "force")
        checked(servers.run(*gluster, *create))
        checked(servers.run(*gluster, "volume", "set", VOLUME, *SERVER_UNCACHED))
        checked(servers.run(*gluster, "volume", "start", VOLUME))

    def _mount(self, host: Host) -> tuple[str, ...]:
        return (
            *("glusterfs", "-N", "-l", f"{self._folder}/{host.name}.log"),
            *(f"--volfile-server={ADDRESS}", f"--volfile-id={VOLUME}"),
            *(*UNCACHED, str(host.path)),
        )
