"""Engines that go wrong on purpose, each in a real worker: `python stub_engines.py CASE UNIT
[--burst]`."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from PIL.Image import Image

from i2ii_spool import settings
from i2ii_spool.cli.options import errors_shown
from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.errors import EngineBroken, EngineError, InvalidRequest
from i2ii_spool.host import gpus
from i2ii_spool.host.logging import configure_logging
from i2ii_spool.images import codec
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import AFTER_DRAIN_SECONDS
from i2ii_spool.spool.liveness import worker_name
from i2ii_spool.worker import daemon, heartbeat, saver
from i2ii_spool.worker.daemon import Worker


class Slow:
    """Takes as many steps as it is asked for, 50 ms each, and returns the pictures as they are."""

    info = EngineInfo(engine="for tests", model="none", revision="0")
    compiling = False
    step_seconds = 0.05

    def load(self) -> None:
        pass

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        steps = request.num_inference_steps or 50
        for step in range(steps):
            time.sleep(self.step_seconds)
            on_step(step + 1, steps)
        return [images[0]] * request.n

    def close(self) -> None:
        pass


class Quick(Slow):
    """The same without the waiting."""

    step_seconds = 0.0


class Long(Slow):
    """Takes half a second for each of as many steps as it is asked for."""

    step_seconds = 0.5


class Halts(Slow):
    """Stops at the 20th step until the file `finish PROMPT` is beside the spool."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        while not settings.load().spool.with_name(f"finish {request.prompt}").exists():
            time.sleep(self.step_seconds)
            on_step(20, 50)
        return [images[0]]


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


class Hangs(Slow):
    """A GPU that hangs at a job whose prompt is `hang`, the first time."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        has_hung = settings.load().spool.with_name("has-hung")
        if request.prompt == "hang" and not has_hung.exists():
            has_hung.touch()
            threading.Event().wait()
        return super().edit(images, request, on_step)


class Hungry(Slow):
    """A job whose prompt is `eat` takes all the memory there is."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        eaten = []
        while request.prompt == "eat":
            eaten.append(b"x" * 2**24)
        return super().edit(images, request, on_step)


class Poisonable(KilledInEdit, RaisesInEdit, Hungry):
    """Falls to the prompts of all these, and hangs for ever at `hang`."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        if request.prompt == "hang":
            threading.Event().wait()
        return super().edit(images, request, on_step)


class SlowPoisonable(Poisonable):
    """The same, slowly."""

    step_seconds = 0.05


class Compiles(Slow):
    """Compiles before the first step, until the file `compiled` is beside the spool."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        self.compiling = True
        while not settings.load().spool.with_name("compiled").exists():
            sum(range(10**5))
        self.compiling = False
        return super().edit(images, request, on_step)


class Unencodable(Slow):
    """Makes pictures that their format cannot hold."""

    step_seconds = 0.0

    def load(self) -> None:
        def encode(*_: object) -> bytes:
            raise InvalidRequest("webp has at most 16383 pixels a side", field="output_format")

        codec.encode = encode


class SlowToEncode(Slow):
    """Results of the prompt `slow` are encoded once the file `encoded` is beside the spool, and of
    `stuck` never. The file `encoding` there tells that one of `slow` has begun."""

    step_seconds = 0.0

    def load(self) -> None:
        encode = codec.encode

        def encode_slowly(image: Image, output_format: str, quality: int | None) -> bytes:
            prompt = image.info.get("prompt")
            if prompt == "stuck":
                threading.Event().wait()
            if prompt == "slow":
                settings.load().spool.with_name("encoding").touch()
            while prompt == "slow" and not settings.load().spool.with_name("encoded").exists():
                sum(range(10**5))
                time.sleep(0.01)  # with the lock of Python let go, as an encoder does
            return encode(image, output_format, quality)

        codec.encode = encode_slowly
        saver.UNCOUNT_SECONDS, saver.LOOK_SECONDS = 0.1, 0.05
        heartbeat.CHECK_SECONDS = 0.5
        daemon.LAST_WRITES_SECONDS = AFTER_DRAIN_SECONDS

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        edited = super().edit(images, request, on_step)
        for image in edited:
            image.info["prompt"] = request.prompt
        return edited


class Sick(Slow):
    """Fails at everything, until the file `well` is beside the spool."""

    def load(self) -> None:
        daemon.DEGRADED_PAUSE_SECONDS = 2.0

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        if not settings.load().spool.with_name("well").exists():
            raise RuntimeError("out of tune")
        return super().edit(images, request, on_step)


class OutOfMemory(EngineError):
    """As the qwen engine raises it."""

    code = "out_of_memory"


class TooLarge(Slow):
    """No edit fits into the memory of the card."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        raise OutOfMemory("use a smaller size")


class BrokenAtLoad(Slow):
    """The card is defective."""

    def load(self) -> None:
        raise EngineBroken("the card is defective")


class SlowToLoad(Slow):
    """A large model from a slow disk."""

    def load(self) -> None:
        until = time.monotonic() + 12
        while time.monotonic() < until:
            sum(range(10**5))


CASES = {
    "slow": Slow,
    "quick": Quick,
    "long": Long,
    "halts": Halts,
    "killed_in_edit": KilledInEdit,
    "raises_in_edit": RaisesInEdit,
    "broken_in_edit": BrokenInEdit,
    "broken_at_load": BrokenAtLoad,
    "compiles": Compiles,
    "unencodable": Unencodable,
    "hangs": Hangs,
    "hungry": Hungry,
    "poisonable": Poisonable,
    "slow_poisonable": SlowPoisonable,
    "slow_to_load": SlowToLoad,
    "slow_to_encode": SlowToEncode,
    "sick": Sick,
    "out_of_memory": TooLarge,
}

if __name__ == "__main__":
    case, unit, *burst = sys.argv[1:]
    gpu = gpus.resolve(unit)
    configure_logging(gpu.unit, settings.load().log_format, worker_name(gpu.unit))
    faulthandler.enable()
    with errors_shown():
        Worker(settings.load(), CASES[case](), gpu, burst=bool(burst)).run()
