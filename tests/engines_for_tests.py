"""Engines that go wrong on purpose, each in a real worker: `python engines_for_tests.py CASE UNIT [--burst]`."""

import os
import signal
import sys
import time
from collections.abc import Sequence

from PIL.Image import Image

from i2ii_spool import gpus, logs, settings
from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.errors import EngineBroken
from i2ii_spool.job import EditRequest
from i2ii_spool.worker.daemon import Worker


class Slow:
    """Takes as many steps as it is asked for, 50 ms each, and returns the pictures as they are."""

    info = EngineInfo(engine="for tests", model="none", revision="0")
    step_seconds = 0.05

    def load(self) -> None:
        pass

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        for step in range(request.num_inference_steps):
            time.sleep(self.step_seconds)
            on_step(step + 1, request.num_inference_steps)
        return [images[0]] * request.n

    def close(self) -> None:
        pass


class Quick(Slow):
    """The same without the waiting."""

    step_seconds = 0.0


class KilledInEdit(Slow):
    """The worker dies of a job whose prompt is `kill`."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        if request.prompt == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().edit(images, request, on_step)


class RaisesInEdit(Slow):
    """A bug in the engine."""

    step_seconds = 0.0

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        if request.prompt == "raise":
            raise ZeroDivisionError("a bug in the engine")
        return super().edit(images, request, on_step)


class BrokenInEdit(Slow):
    """The device is lost."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        raise EngineBroken("the device is lost")


CASES = {
    "slow": Slow,
    "quick": Quick,
    "killed_in_edit": KilledInEdit,
    "raises_in_edit": RaisesInEdit,
    "broken_in_edit": BrokenInEdit,
}

if __name__ == "__main__":
    case, unit, *burst = sys.argv[1:]
    gpu = gpus.choose(unit)
    logs.set_up(gpu.unit)
    Worker(settings.load(), CASES[case](), gpu, burst=bool(burst)).run()
