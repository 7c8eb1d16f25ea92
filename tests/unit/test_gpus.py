"""Which GPUs there are, and which one an argument means, with a made-up driver."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2ii_spool.errors import DriverError, EngineBroken, SettingsError
from i2ii_spool.host import gpus
from i2ii_spool.host.gpus import Device, Gpu, GpuMonitor, GpuUsage
from i2ii_spool.spool.liveness import WORKER_NAME, worker_name
from tests.support import FAKE_DRIVER
from tests.support.kubernetes import container, environment, pods

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
        ("3,3,5", "1", Gpu(5, "gpu5")),
        ("GPU-8f3", f"GPU-{UUID}", Gpu(f"GPU-{UUID}", "gpu-8f3a1b2c")),
        ("NoDevFiles", "0", Gpu(0, "gpu0")),
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
        (None, "9" * 5000, "is not a GPU"),
        ("3,first,5", "1", "GPU 1 not found: CUDA_VISIBLE_DEVICES=3 has 1"),
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
        ("NoDevFiles", []),
        ("none", []),
        ("void", []),
        ("0,-1,1", ["0"]),
        ("0,all,1", ["0"]),
        ("0,,1", ["0"]),
        ("0,0, 1,0", ["0", "1"]),
        (f"GPU-{UUID}, GPU-1", ["0", "1"]),
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
    assert chosen == Device("NVIDIA Imaginary", B, 0, index=1)
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


def test_a_pod_uses_its_only_card_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 3, "uuid": B})  # what a device plugin shows of a node's four
    worker = pods()["i2ii-worker"]
    *_, argument = container(worker)["command"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment(worker)["CUDA_VISIBLE_DEVICES"])
    chosen = gpus.set_visible(gpus.resolve(argument))
    assert chosen is not None
    assert chosen.uuid == B
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(SettingsError, match="GPU 0 not found"):
        gpus.set_visible(gpus.resolve(argument))


@pytest.mark.parametrize(
    ("cards", "visible", "unit", "uuid"),
    [
        ([{"minor": 3, "uuid": A}], "0", "gpu3", A),  # the others are closed to this process
        ([{"minor": 1, "uuid": A}, {"minor": 0, "uuid": B}], "1", "gpu0", B),
        ([{"minor": 3, "uuid": A, "slices": SLICES}], "0", "mig-1111aaaa", SLICES[0]),
        ([{"minor": 3, "uuid": A}], A, "gpu-aaaa0000", A),
    ],
)
def test_a_worker_is_named_by_its_device_and_not_by_a_number_among_the_visible(
    monkeypatch: pytest.MonkeyPatch,
    cards: list[dict[str, Any]],
    visible: str,
    unit: str,
    uuid: str,
) -> None:
    """A scheduler that opens one GPU to each process has every process call it 0."""
    install(monkeypatch, *cards)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = gpus.resolve("0")
    assert chosen.unit == unit
    gpus.set_visible(chosen)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == uuid


def test_a_visible_number_that_the_driver_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, {"minor": 3, "uuid": A})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(SettingsError, match=f"GPU 3 not found: this process may use 0 \\({A}\\)"):
        gpus.resolve("0")


def test_each_mig_slice_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A, "slices": SLICES}, {"minor": 1, "uuid": B})
    assert gpus.list_ids() == [*SLICES, "1"]
    chosen = gpus.set_visible(gpus.resolve(SLICES[1]))
    assert chosen is not None
    assert (chosen.uuid, chosen.minor, chosen.is_slice) == (SLICES[1], 0, True)
    assert GpuMonitor(chosen).read() == GpuUsage(30 * 1024, 80 * 1024, None)


def test_gpu_usage_is_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A})
    assert GpuMonitor(gpus.devices()[0]).read() == GpuUsage(30 * 1024, 80 * 1024, 97, 61)


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
    assert gpus.set_visible(gpus.resolve("0"), optional=True) is None
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "none")  # a container that shall have no GPU
    assert gpus.set_visible(gpus.resolve("0")) is None


def test_a_container_that_gets_its_gpus_in_another_way_uses_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CDI sets `void` so that NVIDIA's runtime does not add the GPUs a second time."""
    install(monkeypatch, {"minor": 0, "uuid": A})
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "void")
    assert gpus.list_ids() == ["0"]
    assert gpus.set_visible(gpus.resolve("0")) is not None


def test_broken_driver_is_an_error_unless_the_engine_needs_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_GPUS", json.dumps({"error": DRIVER_MISMATCH}))
    for call in (gpus.list_ids, lambda: gpus.set_visible(gpus.resolve("0"))):
        with pytest.raises(
            EngineBroken,
            match="the NVIDIA driver does not work: RM has detected an NVML/RM version mism",
        ):
            call()
    assert gpus.list_ids(optional=True) == []
    assert gpus.set_visible(gpus.resolve("0"), optional=True) is None


# --- a GPU that does not answer -------------------------------------------------------------------

NOT_SUPPORTED, NO_PERMISSION, LOST, UNKNOWN = 3, 4, 15, 999
HANDLE = "nvmlDeviceGetHandleByIndex"
UUID_QUERY = "nvmlDeviceGetUUID"
LISTING = (HANDLE, UUID_QUERY, "nvmlDeviceGetName", "nvmlDeviceGetMinorNumber",
           "nvmlDeviceGetMaxMigDeviceCount")  # fmt: skip
USE = ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates")
ERRORS = (1, 2, NOT_SUPPORTED, NO_PERMISSION, 6, 10, 13, LOST, 16, 20, UNKNOWN)


@given(
    st.lists(
        st.dictionaries(st.sampled_from((*LISTING, *USE)), st.sampled_from(ERRORS), max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.permutations(range(4)),
)
def test_no_answer_of_one_gpu_concerns_another(
    each_errors: list[dict[str, int]], minors: list[int]
) -> None:
    cards = [
        {"minor": minors[index], "uuid": f"GPU-{index}aaa0000-1111", "errors": errors}
        for index, errors in enumerate(each_errors)
    ]
    works = {
        card["uuid"]
        for card, errors in zip(cards, each_errors, strict=True)
        if not errors.keys() & {HANDLE, UUID_QUERY}
        and not {errors.get(query) for query in LISTING} & {LOST, 16}
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch, *cards)
        found, sick = gpus.survey()
        assert {device.uuid for device in found} == works
        assert len(found) + len(sick) == len(cards)
        if not found:
            with pytest.raises(DriverError, match="GPU 0 does not answer"):
                gpus.list_ids()
            return
        ids = gpus.list_ids()
        assert len(set(ids)) == len(works)
        for id in ids:
            device = gpus.set_visible(gpus.resolve(id))
            assert device is not None
            works.remove(device.uuid)
            GpuMonitor(device, optional=True).read()
            del os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_gpu_that_does_not_answer_is_named_and_the_others_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(
        monkeypatch,
        {"minor": 0, "uuid": A},
        {"minor": 1, "uuid": B, "errors": {HANDLE: LOST}},
    )
    assert gpus.list_ids() == ["0"]
    assert "GPU 1 does not answer: GPU is lost; there is no worker for it" in caplog.text
    for wanted in ("1", B):
        with pytest.raises(DriverError, match="GPU 1 does not answer: GPU is lost"):
            gpus.set_visible(gpus.resolve(wanted))
    with pytest.raises(DriverError, match="GPU 1 does not answer: GPU is lost"):
        gpus.set_visible(gpus.resolve("1"), optional=True)
    assert gpus.set_visible(gpus.resolve("0")) is not None


def test_visible_gpus_that_do_not_answer_get_no_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A, "errors": {HANDLE: LOST}}, {"minor": 1, "uuid": B})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"0,1,{A},7")
    assert gpus.list_ids() == ["1"]
    logged = [record.message for record in caplog.records if "no worker" in record.message]
    assert [line.partition(" not ")[0] for line in logged] == [
        "GPU 0 does",
        f"GPU {A}",
        "GPU 7",
    ]
    assert gpus.set_visible(gpus.resolve("1")) is not None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == B


def test_the_cards_of_other_units_are_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(
        monkeypatch,
        {"minor": 0, "uuid": A, "errors": {HANDLE: NO_PERMISSION}},
        {"minor": 1, "uuid": B},
    )
    assert gpus.set_visible(gpus.resolve("1")) is not None
    assert "does not answer" not in caplog.text


def test_a_number_that_the_driver_does_not_tell_is_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """WSL2 has no device files; one N is never two cards."""
    no_minor = {"nvmlDeviceGetMinorNumber": NOT_SUPPORTED}
    install(
        monkeypatch,
        {"minor": 7, "uuid": A, "errors": no_minor},
        {"minor": 7, "uuid": B, "errors": no_minor},
    )
    assert gpus.list_ids() == ["0", "1"]
    install(monkeypatch, {"minor": 7, "uuid": A, "errors": no_minor}, {"minor": 0, "uuid": B})
    assert gpus.list_ids() == [A, "0"]


def test_a_slice_that_does_not_answer_is_named_and_the_others_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = {SLICES[0]: {UUID_QUERY: UNKNOWN}}
    install(monkeypatch, {"minor": 0, "uuid": A, "slices": SLICES, "errors": errors})
    found, sick = gpus.survey()
    assert [device.uuid for device in found] == SLICES[1:]
    assert [str(each) for each in sick] == ["slice 0 of GPU 0 does not answer: Unknown Error"]
    install(monkeypatch, {"minor": 0, "uuid": A, "slices": SLICES[:1], "errors": errors})
    assert gpus.devices() == [], "a card in MIG mode cannot be used as a whole"


def test_an_abbreviation_of_two_uuids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": "GPU-aa01"}, {"minor": 1, "uuid": "GPU-aa02"})
    with pytest.raises(SettingsError, match=r"GPU GPU-aa not found: .* 1 \(GPU-aa02\)"):
        gpus.set_visible(gpus.resolve("GPU-aa"))


@pytest.mark.parametrize(("code", "fault"), [(NOT_SUPPORTED, ""), (UNKNOWN, "Unknown Error")])
def test_what_the_driver_does_not_tell_is_unknown(
    monkeypatch: pytest.MonkeyPatch, code: int, fault: str
) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A, "errors": {"nvmlDeviceGetMemoryInfo": code}})
    monitor = GpuMonitor(gpus.devices()[0])
    assert monitor.read() == GpuUsage(None, None, 97, 61)
    assert fault in monitor.fault
    assert bool(fault) == bool(monitor.fault)


def test_a_gpu_that_is_lost_ends_the_worker_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"minor": 0, "uuid": A, "errors": {"nvmlDeviceGetMemoryInfo": LOST}})
    [device] = gpus.devices()
    with pytest.raises(DriverError, match="GPU 0 does not answer: GPU is lost"):
        GpuMonitor(device).read()
    needless = GpuMonitor(device, optional=True)
    assert needless.read() == GpuUsage(None, None, 97, 61)
    assert "GPU is lost" in needless.fault
