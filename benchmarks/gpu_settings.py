"""Time each speed setting of the qwen engine on a GPU, alone and combined, in one run.

    python -m benchmarks.gpu_settings [--side 1024] [--steps 5] [--only NAME ...] [--json FILE]
    python -m benchmarks.gpu_settings --tiny       # smoke test on a CPU

Each case is a new pipeline of the same random weights of full size, prepared by the engine. Its
picture is compared with that of plain diffusers. With random weights, first-block and dbcache skip
more or fewer steps than with published weights: their figures show only that they run. The steps
that taylorseer extrapolates do not depend on the weights.
"""

import argparse
import io
import json
import logging
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.common import describe_machine
from benchmarks.gpu import (
    NATIVE,
    PROMPT,
    PUBLISHED,
    free_memory,
    make_pipeline,
    matrix_peak,
    peak_gib,
    reset_peak,
    run_plainly,
    synchronise,
)
from i2ii_spool import settings
from i2ii_spool.engines.diffusers import loading
from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.engines.diffusers.pipelines import qwen_edit
from i2ii_spool.engines.diffusers.testing.tiny_edit import TINY
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.ops.loadtest.photo import photograph

PLAIN = "diffusers"
DEFAULT = {"offload": "full"}
OFF = DEFAULT | {
    "attention": "native",
    "prompt_cache": "0",
    "modulation_cache": "false",
    "frame_vae": "false",
}


class Case(NamedTuple):
    """What to measure."""

    settings: dict[str, str]
    steps: int | None = None
    """None takes `--steps`."""


CASES = {
    "off": Case(OFF),
    "modulation_cache": Case(OFF | {"modulation_cache": "true"}),
    "frame_vae": Case(OFF | {"frame_vae": "true"}),
    "prompt_cache": Case(OFF | {"prompt_cache": "8"}),
    "attention=cudnn": Case(OFF | {"attention": "_native_cudnn"}),
    "default": Case(DEFAULT),
    "compile": Case(DEFAULT | {"compile": "true"}),
    "fp8": Case(DEFAULT | {"fp8": "true"}),
    "fp8+compile": Case(DEFAULT | {"fp8": "true", "compile": "true"}),
    # 4 whole steps, then one of three.
    "taylorseer": Case(DEFAULT | {"step_cache": "taylorseer"}, steps=22),
    "first-block": Case(DEFAULT | {"step_cache": "first-block"}),
    "dbcache": Case(DEFAULT | {"step_cache": "dbcache"}),
    "offload=fp8": Case(DEFAULT | {"offload": "fp8"}),
    "model-offload": Case(DEFAULT | {"offload": "model-offload"}),
    "group-offload": Case(DEFAULT | {"offload": "group-offload"}, steps=3),
}


@dataclass
class Line:
    """The measurements of one case: the same edit twice. All times are in seconds."""

    name: str
    steps: int
    ready: float = 0
    """Time to prepare the engine, warm-up included, without making the weights."""
    edits: list[float] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    """Of each step but the first of an edit."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Of each call of the text encoder and of both halves of the VAE."""
    peak_gib: float | None = None
    """Peak of the memory allocated on the card, weights included."""
    reserved_gib: float | None = None
    difference: int = 0
    """The largest difference of a channel from the picture of plain diffusers, of 255."""
    mean_difference: float = 0
    repeats: bool = True
    """True if both edits gave the same picture."""

    def to_text(self) -> str:
        """Format the line."""
        median, mean = statistics.median(self.step_times), statistics.mean(self.step_times)
        memory = ""
        if self.peak_gib is not None:
            memory = f"peak {self.peak_gib:.1f} GiB, reserved {self.reserved_gib:.1f} GiB, "
        parts = ", ".join(
            f"{name} {'/'.join(f'{took:.3f}' for took in times)}"
            for name, times in self.parts.items()
        )
        return (
            f"{self.name:<17} {self.steps} steps, s/step {median:.4f} (mean {mean:.4f}), "
            f"s/edit {'/'.join(f'{took:.3f}' for took in self.edits)}, ready {self.ready:.1f} s, "
            f"{memory}differs {self.difference} (mean {self.mean_difference:.2f}), "
            f"repeats {self.repeats}; {parts}"
        )


class Comparison:
    """One run: plain diffusers, then each case."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._device = loading.device()
        self._shape = TINY if options.tiny else PUBLISHED
        self._plain: dict[int, Image.Image] = {}
        """The pictures of plain diffusers, by the number of steps."""
        self.lines: list[Line] = []
        self.failed: list[str] = []

    def run(self) -> None:
        """Measure, and print each line at once. A case that fails does not end the run."""
        names = self._options.only or list(CASES)
        counts = {CASES[name].steps or self._options.steps for name in names}
        self._measure(PLAIN, partial(self._measure_diffusers, sorted(counts)))
        for name in names:
            self._measure(name, partial(self._measure_engine, name, CASES[name]))

    def _measure(self, name: str, measure: Callable[[], Line]) -> None:
        try:
            self.lines.append(measure())
            print(self.lines[-1].to_text(), flush=True)
        except Exception as error:  # of any kind: the cases are independent
            self.failed.append(name)
            print(f"{name:<17} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
            traceback.print_exc(limit=-4)
        torch._dynamo.reset()  # else the next case would reuse compiled code
        free_memory(self._device)

    def _measure_diffusers(self, counts: list[int]) -> Line:
        """Time diffusers with references of this side, and keep its picture of each step count."""
        pipeline = make_pipeline(self._shape, self._device)
        side = self._options.side
        qwen_edit.limit_references(pipeline, side)
        run_plainly(pipeline, side, 2, 4.0, [])  # not timed: it chooses kernels
        for steps in counts:
            self._plain[steps] = run_plainly(pipeline, side, steps, 4.0, [])
        line = Line(PLAIN, self._options.steps)
        time_parts(pipeline, line)
        self._measure_edits(line, lambda ended: run_plainly(pipeline, side, line.steps, 4.0, ended))
        return line

    def _measure_engine(self, name: str, case: Case) -> Line:
        line = Line(name, case.steps or self._options.steps)
        given = case.settings | ({"attention": "native"} if self._device.type == "cpu" else {})
        pipeline = make_pipeline(self._shape, self._device)
        engine = PreparedEngine(
            settings.load(
                {"engine": "qwen", "model": "random", "max_side": self._options.side, **given}
            )
        )
        begun = time.perf_counter()
        engine.prepare(pipeline, self._device)
        line.ready = time.perf_counter() - begun
        photo = Image.open(io.BytesIO(photograph(NATIVE, NATIVE, seed=0))).convert("RGB")
        if "compile" in given:
            # Not timed: a prompt of another length than the warm-up's is compiled once more.
            engine.edit([photo], of_steps(2, prompt=PROMPT + " too"), ignore)
        time_parts(pipeline, line)
        asked = of_steps(line.steps)

        def edit(ended: list[float]) -> Image.Image:
            def on_step(_done: int, _total: int) -> None:
                synchronise()
                ended.append(time.perf_counter())

            return engine.edit([photo], asked, on_step)[0]

        try:
            self._measure_edits(line, edit)
        finally:
            engine.close()
            free_weights(pipeline)
        return line

    def _measure_edits(self, line: Line, edit: Callable[[list[float]], Image.Image]) -> None:
        """Time the edit twice, and compare its pictures with plain diffusers'."""
        reset_peak()
        made = []
        for _ in range(2):
            ended: list[float] = []
            begun = time.perf_counter()
            made.append(edit(ended))
            line.edits.append(time.perf_counter() - begun)
            line.step_times += [later - earlier for earlier, later in pairwise(ended)]
        line.peak_gib = peak_gib()
        if torch.cuda.is_available():
            line.reserved_gib = torch.cuda.max_memory_reserved() / 2**30
        line.repeats = made[0].tobytes() == made[1].tobytes()
        one, other = (np.asarray(each, dtype=int) for each in (made[0], self._plain[line.steps]))
        difference = np.abs(one - other)
        line.difference, line.mean_difference = int(difference.max()), float(difference.mean())


class PreparedEngine(QwenEngine):
    """The engine on a pipeline that it did not load."""

    def prepare(self, pipeline: Any, device: torch.device) -> None:
        """Prepare to edit with this pipeline."""
        assert self._settings.offload != "auto"
        self._offload = self._settings.offload
        self.attach(pipeline, "2511", device)
        synchronise()


def of_steps(steps: int, prompt: str = PROMPT) -> EditRequest:
    """Return a request, also for fewer steps than a client may ask for."""
    plain = EditRequest(prompt=prompt, seed=0, true_cfg_scale=4.0)
    return plain.model_copy(update={"num_inference_steps": steps})


def ignore(_done: int, _total: int) -> None:
    """An `on_step` that does nothing."""


def time_parts(pipeline: Any, line: Line) -> None:
    """Make the text encoder and both halves of the VAE append their times to `line.parts`."""
    for owner, name in (
        (pipeline, "encode_prompt"),
        (pipeline.vae, "encode"),
        (pipeline.vae, "decode"),
    ):
        call, times = getattr(owner, name), line.parts.setdefault(name, [])

        def timed(*args: Any, _call: Any = call, _times: Any = times, **options: Any) -> Any:
            synchronise()
            begun = time.perf_counter()
            made = _call(*args, **options)
            synchronise()
            _times.append(time.perf_counter() - begun)
            return made

        setattr(owner, name, timed)


def free_weights(pipeline: Any) -> None:
    """Free the weights even if something keeps the modules: cache-dit never releases them."""
    for module in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = torch.empty(0, dtype=tensor.dtype)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time each speed setting on a GPU.")
    parser.add_argument("--side", type=int, help="max_side  [default 1024]")
    parser.add_argument("--steps", type=int, default=5, help="steps of an edit  [default 5]")
    parser.add_argument(
        "--only", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model: the figures are meaningless"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines to this file")
    options = parser.parse_args()
    options.side = options.side or (128 if options.tiny else NATIVE)
    logging.basicConfig(level=logging.INFO, format="    %(message)s")

    machine = describe_machine(Path())
    machine["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(", ".join(f"{name} {value}" for name, value in (machine | loading.versions()).items()))
    comparison = Comparison(options)
    peak = matrix_peak(comparison._device, 512 if options.tiny else 8192)
    print(f"matrix peak {peak:.1f} TFLOP/s", flush=True)
    comparison.run()
    if options.json:
        lines = [asdict(line) for line in comparison.lines]
        options.json.write_text(json.dumps({"machine": machine, "lines": lines}, indent=2))
    if comparison.failed:
        raise SystemExit(f"failed: {', '.join(comparison.failed)}")


if __name__ == "__main__":
    main()
