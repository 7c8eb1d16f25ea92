"""What every process does for the spool beside its own work."""

import re
import threading
from pathlib import Path
from unittest import mock

import pytest

from i2ii_spool.images.probe import Header
from i2ii_spool.settings import Settings
from i2ii_spool.spool import admission, maintenance
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.maintenance import Maintenance
from i2ii_spool.spool.recovery import Reaper
from tests.support import ROOT
from tests.support.guests import make_guest
from tests.support.jobs import names_in


def test_a_guest_that_takes_long_to_judge_holds_up_no_recovery(spool: Spool) -> None:
    is_judging, has_recovered = threading.Event(), threading.Event()

    def judge(_admission: Admission) -> list[str]:
        is_judging.set()
        assert has_recovered.wait(20)
        return []

    def recover(_reaper: Reaper) -> None:
        assert is_judging.wait(20)
        has_recovered.set()

    settings = Settings(spool=spool.root, _env_file=None)
    with (
        mock.patch.object(Admission, "run_once", judge),
        mock.patch.object(Reaper, "run_once", recover),
        Maintenance(spool, settings),
    ):
        assert has_recovered.wait(20)


@pytest.mark.parametrize(
    ("is_on_network", "given", "seconds"),
    [(False, None, 5), (True, None, 40), (False, 7, 7), (True, 0, 0)],
)
def test_a_guest_settles_for_longer_where_clients_hold_back_what_they_write(
    spool: Spool, is_on_network: bool, given: float | None, seconds: float
) -> None:
    settings = Settings(spool=spool.root, settle_seconds=given, _env_file=None)
    with (
        mock.patch.object(Spool, "is_on_network", is_on_network),
        mock.patch.object(maintenance, "Admission", wraps=Admission) as watch,
    ):
        Maintenance(spool, settings)
    assert watch.call_args.kwargs["settle"] == seconds


@pytest.mark.parametrize(
    ("is_on_network", "lease", "watchdog", "least"),
    [
        (True, None, "", None),
        (True, None, "600000000", "600"),
        (True, 60, "", "180"),
        (True, 180, "600000000", "600"),
        (True, 180, "180000000", None),
        (False, 60, "600000000", None),
    ],
)
def test_a_lease_that_a_step_may_outlast_is_told_on_a_network_file_system(
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_on_network: bool,
    lease: float | None,
    watchdog: str,
    least: str | None,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", watchdog)
    settings = Settings(spool=spool.root, lease_seconds=lease, _env_file=None)
    with mock.patch.object(Spool, "is_on_network", is_on_network):
        Maintenance(spool, settings)
    told = [re.findall(r"I2II_LEASE_SECONDS to (\d+) or more", text) for text in caplog.messages]
    assert told == ([] if least is None else [[least]])


@pytest.mark.parametrize(
    ("is_on_network", "given", "lease"),
    [(False, None, 60), (True, None, 180), (False, 7, 7), (True, 7, 7)],
)
def test_the_lease_fits_the_file_system_unless_it_is_set(
    spool: Spool, is_on_network: bool, given: float | None, lease: float
) -> None:
    settings = Settings(spool=spool.root, lease_seconds=given, _env_file=None)
    with mock.patch.object(Spool, "is_on_network", is_on_network):
        assert maintenance.lease_seconds(spool, settings) == lease


def test_the_lease_of_a_network_file_system_outlasts_the_watchdog_of_a_worker() -> None:
    unit = ROOT / "i2ii_spool/systemd/i2ii-gpu@.service"
    minutes = re.search(r"^WatchdogSec=(\d+)min$", unit.read_text(), re.MULTILINE)
    assert minutes is not None
    assert int(minutes[1]) * 60 <= maintenance.NETWORK_LEASE_SECONDS


def test_a_guest_is_judged_once_until_it_changes(spool: Spool, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "album", "photo.jpg", prompt="sepia")
    (guest / "photo.jpg").write_bytes(b"\xff\xd8\xff, and no more")
    guest.rename(spool.incoming / "album")
    watch = Admission(spool, settle=0, patience=1000, max_bytes=10**6, max_pixels=10**6)
    judge = mock.Mock(wraps=admission.inspect)
    with mock.patch.object(admission, "inspect", judge):
        for _ in range(3):
            assert watch.run_once() == []
        assert judge.call_count == 1

        judge.return_value = Header("jpg", 64, 48)
        (spool.incoming / "album" / "photo.jpg").write_bytes(b"\xff\xd8\xff, and more")
        (id,) = watch.run_once()
    assert names_in(spool.incoming) == [id]
