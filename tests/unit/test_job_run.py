"""How often a worker asks the disk during an edit."""

import time
from collections.abc import Callable, Sequence
from unittest import mock

import pytest
from PIL.Image import Image

from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.errors import Cancelled
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import Settings
from i2ii_spool.spool import actions
from i2ii_spool.spool.claim import Claim
from i2ii_spool.spool.layout import Spool
from i2ii_spool.worker.job_run import JobRun
from tests.support.jobs import SubmitJob, claim_next

STEPS = 20


class EightStepsASecond:
    """An engine that takes as many steps as it is asked for."""

    info = EngineInfo(engine="for tests", model="none", revision="0")
    compiling = False

    def load(self) -> None: ...

    def close(self) -> None: ...

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        steps = request.num_inference_steps or STEPS
        for step in range(1, steps + 1):
            time.sleep(1 / 8)
            on_step(step, steps)
        return list(images)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the steps of the engine take time."""
    times = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: times[-1])
    monkeypatch.setattr(time, "sleep", lambda seconds: times.append(times[-1] + seconds))


def edit(
    claim: Claim, *, is_on_network: bool, on_step: Callable[..., None] = lambda *_: None
) -> None:
    run = JobRun(claim, on_step, Settings(_env_file=None), is_on_network=is_on_network)
    run.edit(EightStepsASecond(), run.load())


@pytest.mark.parametrize(
    ("is_on_network", "reported"), [(False, [*range(1, STEPS + 1)]), (True, [1, 9, 17, STEPS])]
)
def test_on_a_network_steps_are_reported_once_a_second(
    submit_job: SubmitJob, spool: Spool, is_on_network: bool, reported: list[int]
) -> None:
    submit_job(num_inference_steps=STEPS)
    claim = claim_next(spool)
    with mock.patch.object(claim, "report", wraps=claim.report) as report:
        edit(claim, is_on_network=is_on_network)
    told = [call.args[0] for call in report.call_args_list]
    assert [progress.step for progress in told if progress.phase == "editing"] == reported


@pytest.mark.parametrize(("is_on_network", "step"), [(False, 3), (True, 9)])
def test_on_a_network_a_cancel_is_looked_for_once_a_second(
    submit_job: SubmitJob, spool: Spool, is_on_network: bool, step: int
) -> None:
    id = submit_job(num_inference_steps=STEPS)

    def cancel_after_two(step: int, *_: object) -> None:
        if step == 2:
            actions.cancel(spool, id)

    with pytest.raises(Cancelled, match=f"cancelled at step {step} of {STEPS}"):
        edit(claim_next(spool), is_on_network=is_on_network, on_step=cancel_after_two)
