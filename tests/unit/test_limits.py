"""The room that uploads find on the disk, which is not read for each of them."""

from contextlib import AsyncExitStack

import pytest

from i2ii_spool.errors import DiskFull
from i2ii_spool.server.limits import Limits
from i2ii_spool.server.state import Cached
from i2ii_spool.spool.capacity import Room

LONG = 3600.0


class Disk:
    """A disk that is read anew only for an upload that would be refused."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.room = Cached(self._read, age=LONG)

    def _read(self) -> Room:
        return Room(self.free, free_files=None)


async def write(limits: Limits, disk: Disk, size: int) -> None:
    async with limits.disk_space(disk.room, size, min_free=0):
        disk.free -= size


async def test_uploads_one_after_another_fill_the_disk_once() -> None:
    limits, disk = Limits(), Disk(free=100)
    await write(limits, disk, 40)
    await write(limits, disk, 40)
    with pytest.raises(DiskFull, match="i2ii gc"):
        await write(limits, disk, 40)
    await write(limits, disk, 20)
    assert disk.free == 0


async def test_uploads_that_came_to_nothing_leave_their_room() -> None:
    limits, disk = Limits(), Disk(free=100)
    for _ in range(5):
        async with limits.disk_space(disk.room, 60, min_free=0):
            pass


async def test_uploads_at_once_share_the_room() -> None:
    limits, disk = Limits(), Disk(free=100)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(limits.disk_space(disk.room, 50, min_free=0))
        with pytest.raises(DiskFull):
            await write(limits, disk, 1)
    await write(limits, disk, 100)
