"""The same on a real ext4, whose power is cut under the process: what was not synced really is
gone."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.crash.test_every_call import calls
from tests.support.disks import MountedDisk, folder_in_memory, why_not
from tests.support.promises import Promises, check
from tests.support.recording_disk import Op, RecordingDisk
from tests.support.scenarios import SCENARIOS, begin, end

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"no disk of its own: {why_not()}"),
]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """The image of the disk is in memory."""
    with folder_in_memory() as folder:
        yield folder


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_real_disk_that_loses_power_breaks_no_promise(name: str, tmp_path: Path) -> None:
    count = len(calls(name, tmp_path / "whole"))
    for n in range(1, count + 1):
        place = tmp_path / str(n)
        place.mkdir()
        with MountedDisk(place) as disk:
            told = run_until_power_loss(name, disk, n)
            disk.boot()
            try:
                check(Spool(disk.folder / "spool"), Promises.told(told))
            except Exception as error:
                raise AssertionError(f"power lost at call {n} of {count}: {error!r}") from error


def test_real_disk_loses_data_without_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MountedDisk(tmp_path) as disk:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        told = run_until_power_loss("submit", disk, -1)
        disk.cut_power()
        disk.boot()
        with pytest.raises(AssertionError, match="is lost"):
            check(Spool(disk.folder / "spool"), Promises.told(told))


def run_until_power_loss(name: str, disk: MountedDisk, n: int) -> bytes:
    """Run a scenario, cut the power before call `n`; return what was promised until then."""
    told = b""

    def tell(text: bytes) -> None:
        nonlocal told
        told = text

    def cut(number: int, _op: Op) -> None:
        if number == n:
            disk.cut_power()

    spool = Spool(disk.folder / "spool")
    going = begin(name, spool, Promises(tell))
    os.sync()
    with suppress(Exception):
        end(going, RecordingDisk(spool.root, cut))
    return told
