"""Which GPUs there are, and which one an argument means, with a made-up driver."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.errors import EngineBroken, SettingsError
from i2ii_spool.host import gpus
from i2ii_spool.host.gpus import Device, Gpu, GpuMonitor, GpuUsage
from i2ii_spool.spool.liveness import WORKER_NAME, worker_name
from tests.support import FAKE_DRIVER

UUID = "8f3a1b2c-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("visible", "wanted", "chosen"),
    [
        (None, "0", Gpu(0, "gpu0")),
        (None, "7", Gpu(7, "gpu7")),
        (None, f"GPU-{UUID}", Gpu(f"GPU-{UUID}", "gpu-8f3a1b2c")),
        (None, f"MIG-{UUID}", Gpu(f"MIG-{UUID}", "mig-8f3a1b2c")),
        (None, f"MIG-GPU-{UUID}/3/0", Gpu(f"MIG-GPU-{UUID}/3/0", "mig-8f3a1b2c-3-0")),
        ("3,5", "0", Gpu(3, "gpu3")),
        ("3,5", "1", Gpu(5, "gpu5")),
        (" 3 , 5 ", "1", Gpu(5, "gpu5")),
        ("3,-1,5", "0", Gpu(3, "gpu3")),
        (f"GPU-{UUID},GPU-1234abcd", "1", Gpu("GPU-1234abcd", "gpu-1234abcd")),
        (f"GPU-{UUID}", f"GPU-{UUID}", Gpu(f"GPU-{UUID}", "gpu-8f3a1b2c")),
        (f"MIG-{UUID}", "0", Gpu(f"MIG-{UUID}", "mig-8f3a1b2c")),
    ],
)
def test_an_index_counts_within_the_visible_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: str, chosen: Gpu
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.resolve(wanted) == chosen
    assert WORKER_NAME.fullmatch(worker_name(chosen.unit))


@pytest.mark.parametrize(
    ("visible", "wanted", "says"),
    [
        ("3,5", "2", "GPU 2 not found: CUDA_VISIBLE_DEVICES=3,5 has 2"),
        ("3,-1,5", "1", "GPU 1 not found"),
        ("3,5", f"GPU-{UUID}", "is not in CUDA_VISIBLE_DEVICES=3,5"),
        (None, "first", "'first' is not a GPU"),
        (None, "-1", "'-1' is not a GPU"),
        (None, "GPU-../../etc", "is not a GPU"),
        (None, "", "'' is not a GPU"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: str, says: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SettingsError, match="GPU") as refused:
        gpus.resolve(wanted)
    assert says in refused.value.message
    assert refused.value.field == "gpu"


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("3,5", ["0", "1"]),
        ("3,-1,5", ["0"]),
        (f"MIG-{UUID}", ["0"]),
    ],
)
def test_the_environment_says_which_gpus_may_be_used(
    monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.list_ids() == found


# --- the driver -----------------------------------------------------------------------------------

A, B = "GPU-aaaa0000-1111", "GPU-bbbb0000-1111"
SLICES = ["MIG-1111aaaa-1", "MIG-2222bbbb-2"]
DRIVER_MISMATCH = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was upgraded, and the kernel module is old."""


@pytest.fixture(autouse=True)
def fake_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The made-up library replaces that of NVIDIA."""
    real = sys.modules.pop("pynvml")
    monkeypatch.syspath_prepend(FAKE_DRIVER)
    import pynvml

    monkeypatch.setattr(gpus, "pynvml", pynvml)
    yield
    sys.modules["pynvml"] = real


def install(monkeypatch: pytest.MonkeyPatch, *cards: dict[str, Any]) -> None:
    monkeypatch.setenv("FAKE_GPUS", json.dumps(cards))


def test_without_a_driver_there_is_no_gpu() -> None:
    assert gpus.devices() == []
    assert gpus.list_ids() == []
    assert gpus.driver_versions() is None
    assert gpus.set_visible(gpus.resolve("0")) is None


def test_a_gpu_is_called_by_its_device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 1, "uuid": A}, {"minor": 0, "uuid": B})
    assert gpus.list_ids() == ["1", "0"]
    chosen = gpus.set_visible(gpus.resolve("0"))
    assert chosen == Device("NVIDIA Imaginary", B, 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == B
    assert gpus.driver_versions() == ("570.86.15", "12.8")


def test_gpu_in_a_restricted_unit_keeps_its_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A}, {"minor": 1, "uuid": B})
    monkeypatch.setenv("FAKE_FENCE", "1")
    gpus.set_visible(gpus.resolve("1"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == B


@pytest.mark.parametrize(
    ("visible", "wanted", "uuid"), [("1,0", "0", B), (B, "0", B), (A[:8], "0", A)]
)
def test_what_is_visible_already_is_named_by_its_uuid(
    monkeypatch: pytest.MonkeyPatch, visible: str, wanted: str, uuid: str
) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A}, {"minor": 1, "uuid": B})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus.set_visible(gpus.resolve(wanted))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == uuid


def test_each_mig_slice_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A, "slices": SLICES}, {"minor": 1, "uuid": B})
    assert gpus.list_ids() == [*SLICES, "1"]
    chosen = gpus.set_visible(gpus.resolve(SLICES[1]))
    assert chosen is not None
    assert (chosen.uuid, chosen.minor, chosen.is_slice) == (SLICES[1], 0, True)
    assert GpuMonitor(chosen).read() == GpuUsage(30 * 1024, 80 * 1024, None)


def test_gpu_usage_is_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A})
    assert GpuMonitor(gpus.devices()[0]).read() == GpuUsage(30 * 1024, 80 * 1024, 97)


def test_a_gpu_that_the_driver_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A})
    with pytest.raises(SettingsError, match=f"GPU 7 not found: this process may use 0 \\({A}\\)"):
        gpus.set_visible(gpus.resolve("7"))


def test_driver_without_devices_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A unit whose card has gone must not go on with the engine for machines without one."""
    install(monkeypatch)
    (tmp_path / "version").touch()
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "version")
    with pytest.raises(SettingsError, match="GPU 0 not found: this process may use no GPU"):
        gpus.set_visible(gpus.resolve("0"))


def test_broken_driver_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_GPUS", json.dumps({"error": DRIVER_MISMATCH}))
    with pytest.raises(
        EngineBroken,
        match="the NVIDIA driver does not work: RM has detected an NVML/RM version mism",
    ):
        gpus.list_ids()
