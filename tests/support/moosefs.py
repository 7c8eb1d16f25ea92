"""MooseFS: one master and one chunkserver."""

from pathlib import Path

from tests.support.fuse import ADDRESS, FuseFolder, Servers, why_not_mount
from tests.support.hosts import Host
from tests.support.service import wait_until

UNCACHED = "mfsattrcacheto=0,mfsentrycacheto=0,mfsdirentrycacheto=0"
NEW = Path("/var/lib/mfs/metadata.mfs.empty")
"""The metadata of a file system without files."""

CONNECTED = "connected to Master"
"""What the chunkserver logs."""


def why_not() -> str | None:
    """Why MooseFS cannot be mounted here, or None."""
    return why_not_mount("mfsmaster", "mfschunkserver", "mfsmount")


class MooseFolder(FuseFolder):
    """Their configuration, state and data lie in the folder."""

    kind = "moosefs"

    def _serve(self) -> tuple[str, ...]:
        master, chunks = self._folder / "master", self._folder / "chunks"
        for folder in (master, chunks, self._folder / "disk"):
            folder.mkdir()
        (master / "metadata.mfs").write_bytes(NEW.read_bytes())
        (master / "exports").write_text("* / rw,alldirs,admin,maproot=0:0\n* . rw\n")
        (chunks / "disks").write_text(f"{self._folder}/disk\n")
        account = "WORKING_USER = root\nWORKING_GROUP = root\n"
        (master / "cfg").write_text(
            f"{account}DATA_PATH = {master}\nEXPORTS_FILENAME = {master}/exports\n"
        )
        (chunks / "cfg").write_text(
            f"{account}DATA_PATH = {chunks}\nHDD_CONF_FILENAME = {chunks}/disks\n"
            f"MASTER_HOST = {ADDRESS}\nMASTER_RECONNECTION_DELAY = 1\n"
        )
        # The chunkserver finds its master by trying again.
        both = f"mfschunkserver -f -c {chunks}/cfg & exec mfsmaster -f -c {master}/cfg"
        return ("sh", "-c", both)

    def _prepare(self, servers: Servers) -> None:
        wait_until(lambda: CONNECTED in servers.read_log())

    def _mount(self, host: Host) -> tuple[str, ...]:
        return ("mfsmount", "-f", "-H", ADDRESS, "-o", UNCACHED, str(host.path))
