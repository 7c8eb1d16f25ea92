"""What every process does for the spool beside its own work."""

import threading
from pathlib import Path
from unittest import mock

from i2ii_spool.images.probe import Header
from i2ii_spool.settings import Settings
from i2ii_spool.spool import admission
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.maintenance import Maintenance
from i2ii_spool.spool.recovery import Reaper
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
