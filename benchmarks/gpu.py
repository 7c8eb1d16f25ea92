"""Time edits on a GPU, by i2ii's worker and by plain diffusers, in one run.

    python -m benchmarks.gpu [--sides 1024 768] [--steps 50] [--set fp8=true ...] [--json]
    python -m benchmarks.gpu --tiny        # smoke test on a CPU

The model is a full-size Qwen-Image-Edit-2511 with random weights, made on the card: nothing is
downloaded. The time of an edit does not depend on the weights, except with a step cache, which
skips more or less with other weights. Figures with a step cache are therefore meaningless.
"""

import argparse
import gc
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import describe_machine
from i2ii_spool import settings
from i2ii_spool.engines.base import OnStep
from i2ii_spool.engines.diffusers import loading
from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.engines.diffusers.pipelines import qwen_edit
from i2ii_spool.engines.diffusers.testing.tiny_edit import TINY, Shape, random_pipeline
from i2ii_spool.host import gpus
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import submit
from i2ii_spool.worker.daemon import Worker

PUBLISHED = Shape(
    transformer={},  # diffusers' defaults are those of the published model
    vae={},
    text={
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    vision={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
)
NATIVE = 1024
PROMPT = "make it red and add a large blue hat"
LORA_RANK = 64
IN_A_ROW = 8
PRESETS = """
[distilled]
num_inference_steps = 4
true_cfg_scale = 1.0
shift = 3.0
lora = "lora.safetensors"
lora_version = "2511"
"""


@dataclass(frozen=True)
class Edit:
    """The times of one edit, from the call until the picture is in host memory, in seconds."""

    begun: float
    ended: float
    steps: tuple[float, ...]
    """When each step ended on the card."""
    peak_gib: float | None
    """Peak of the memory allocated on the card, weights included."""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun

    @property
    def step(self) -> float:
        """The median seconds of a step."""
        return statistics.median(later - earlier for earlier, later in pairwise(self.steps))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    side: int
    steps: str
    seconds: float
    step_seconds: float
    tflops: float | None
    """TFLOP/s within a step."""
    of_peak: float | None
    """Their share of the TFLOP/s of a large matrix product."""
    peak_gib: float | None
    """Peak of the memory allocated on the card, weights included."""


class Bench:
    """One run: the card, and its measurements."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._shape = TINY if options.tiny else PUBLISHED
        self._device = loading.device()
        self.peak = matrix_peak(self._device, 512 if options.tiny else 8192)
        self.rows: list[Row] = []
        self.gaps: list[float] = []
        self._flops: dict[int, float] = {}

    def run(self) -> None:
        """Measure plain diffusers, then the worker at each side."""
        self._measure_diffusers()
        for side in self._options.sides:
            self._measure_worker(side)

    def pipeline(self) -> Any:
        """Make a pipeline of random weights on the card."""
        return make_pipeline(self._shape, self._device)

    def _measure_diffusers(self) -> None:
        """Time diffusers as documented, with every reference scaled to the native area."""
        pipeline = self.pipeline()
        for side in self._options.sides:
            self._flops[side] = flops_of_a_pass(pipeline, side)
        qwen_edit.limit_references(pipeline, self._native)
        for side in self._options.sides:
            # Not timed: it chooses kernels and allocates memory.
            edit_plainly(pipeline, side, 2, 4.0)
            edit = edit_plainly(pipeline, side, self._options.steps, 4.0)
            # The FLOP are counted for a reference of this side, but this one has the native side.
            self._add("diffusers", side, edit, passes=2, is_counted=side == self._native)

    @property
    def _native(self) -> int:
        return int(max(self._options.sides)) if self._options.tiny else NATIVE

    def _measure_worker(self, side: int) -> None:
        """Time the worker on a spool: one edit of each kind, then several in a row."""
        with tempfile.TemporaryDirectory(prefix="i2ii-benchmark-") as folder:
            spool = Spool(Path(folder) / "spool")
            spool.create()
            engine = MeasuredEngine(self._settings(Path(folder), side), self)
            exact = request(num_inference_steps=self._options.steps, true_cfg_scale=4.0)
            distilled = EditRequest(prompt=PROMPT, preset="distilled", seed=0)
            jobs = [exact, *[distilled] * (2 + IN_A_ROW)]
            picture = Path(folder) / "picture.jpg"
            picture.write_bytes(photograph(NATIVE, NATIVE, seed=0))
            for job in jobs:
                submit(spool, [picture], job, max_pixels=NATIVE**2)
            Worker(engine.settings, engine, gpus.resolve("0"), burst=True).run()
        # Not used: the engine's warm-up, and the first edit with the LoRA.
        _, full, _, few, *rest = engine.edits
        self._add("i2ii", side, full, passes=2)
        self._add("i2ii, 4-step LoRA", side, few, passes=1)
        row = [few, *rest]
        self.gaps += [later.begun - earlier.ended for earlier, later in pairwise(row)]

    def _settings(self, folder: Path, side: int) -> Settings:
        (folder / "presets.toml").write_text(PRESETS)
        changed = dict(each.split("=", 1) for each in self._options.set)
        return settings.load(
            {
                "spool": folder / "spool",
                "engine": "qwen",
                "model": "random weights",
                "max_side": side,
                "presets": folder / "presets.toml",
                **changed,
            }
        )

    def _add(
        self, what: str, side: int, edit: Edit, *, passes: int, is_counted: bool = True
    ) -> None:
        tflops = passes * self._flops[side] / edit.step / 1e12 if is_counted else None
        of_peak = tflops / self.peak if tflops is not None else None
        steps = f"{len(edit.steps)}x{passes}"
        self.rows.append(
            Row(what, side, steps, edit.seconds, edit.step, tflops, of_peak, edit.peak_gib)
        )
        # At once: a later measurement may fail.
        print(self.rows[-1], file=sys.stderr, flush=True)


class MeasuredEngine(QwenEngine):
    """The engine on random weights. It records when each edit and each of its steps ended."""

    def __init__(self, settings: Settings, bench: Bench) -> None:
        super().__init__(settings)
        self.settings = settings
        self.edits: list[Edit] = []
        self._bench = bench

    def load(self) -> None:
        """Make the weights instead of loading them, and a LoRA."""
        pipeline = self._bench.pipeline()
        assert self.settings.presets is not None
        write_lora(self.settings.presets.parent / "lora.safetensors", pipeline.transformer)
        self.attach(pipeline, "2511", loading.device())
        self.info = replace(self.info, versions=loading.versions())

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """Edit and record the times."""
        reset_peak()
        steps = []

        def timed(step: int, count: int) -> None:
            synchronise()
            steps.append(time.perf_counter())
            on_step(step, count)

        begun = time.perf_counter()
        made = super().edit(images, request, timed)
        self.edits.append(Edit(begun, time.perf_counter(), tuple(steps), peak_gib()))
        return made


def make_pipeline(shape: Shape, device: torch.device) -> Any:
    """Make a pipeline of random weights on the device, the same weights each time."""
    free_memory(device)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16)
    try:
        with torch.device(device):
            pipeline = random_pipeline(shape, zero_cond_t=True)
    finally:
        torch.set_default_dtype(default)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_lora(file: Path, transformer: nn.Module) -> None:
    """Write a LoRA for every linear layer of the blocks, as large as the published ones."""
    matrices = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("transformer_blocks."):
            matrices[f"transformer.{name}.lora_A.weight"] = (
                torch.randn(LORA_RANK, layer.in_features) * 0.01
            )
            matrices[f"transformer.{name}.lora_B.weight"] = (
                torch.randn(layer.out_features, LORA_RANK) * 0.01
            )
    save_file({name: matrix.bfloat16() for name, matrix in matrices.items()}, file)


def edit_plainly(pipeline: Any, side: int, steps: int, cfg: float) -> Edit:
    """Time one edit with an unchanged pipeline."""
    ended: list[float] = []
    reset_peak()
    begun = time.perf_counter()
    run_plainly(pipeline, side, steps, cfg, ended)
    return Edit(begun, time.perf_counter(), tuple(ended), peak_gib())


def run_plainly(
    pipeline: Any, side: int, steps: int, cfg: float, ended: list[float]
) -> Image.Image:
    """Return the picture of an unchanged pipeline. `ended` receives the time of each step's end."""

    def on_step_end(
        _pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        synchronise()
        ended.append(time.perf_counter())
        return tensors

    made: Image.Image = pipeline(
        image=Image.open(io.BytesIO(photograph(NATIVE, NATIVE, seed=0))),
        prompt=PROMPT,
        negative_prompt=" " if cfg > 1 else None,
        true_cfg_scale=cfg,
        num_inference_steps=steps,
        width=side,
        height=side,
        generator=torch.Generator("cpu").manual_seed(0),
        callback_on_step_end=on_step_end,
    ).images[0]
    return made


def flops_of_a_pass(pipeline: Any, side: int) -> float:
    """Return the FLOP of one pass of the transformer; result and reference have this side."""
    qwen_edit.limit_references(pipeline, side)
    with counting(pipeline.transformer) as counted:
        edit_plainly(pipeline, side, 2, 1.0)
    return counted[-1]


@contextmanager
def counting(transformer: Any) -> Iterator[list[float]]:
    """Yield a list to which each pass of the transformer appends its FLOP."""
    forward, counted = transformer.forward, []

    def counted_forward(*args: Any, **kwargs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            made = forward(*args, **kwargs)
        counted.append(float(counter.get_total_flops()))
        return made

    transformer.forward = counted_forward
    try:
        yield counted
    finally:
        del transformer.forward


def matrix_peak(device: torch.device, side: int) -> float:
    """Return the TFLOP/s of a large matrix product in the type of the model: the best of ten."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    one, other = torch.randn(2, side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        synchronise()
        begun = time.perf_counter()
        _ = one @ other
        synchronise()
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best / 1e12


def synchronise() -> None:
    """Wait until the card has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Reset the peak of allocated memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Return the peak of allocated memory since then, or None without a card."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def free_memory(device: torch.device) -> None:
    """Free the memory of the last pipeline."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def request(**fields: Any) -> EditRequest:
    """Return the request to measure, whose result has an area of `max_side` squared."""
    return EditRequest(prompt=PROMPT, seed=0, **fields)


# --- output ---------------------------------------------------------------------------------------


def show(bench: Bench, machine: dict[str, str]) -> None:
    """Print the table."""
    console = Console(width=120)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    console.print(f"matrix peak {bench.peak:.1f} TFLOP/s")
    table = Table(
        "", "side", "steps", "s/edit", "s/step", "TFLOP/s", "of peak", "peak GiB", box=None
    )
    for row in bench.rows:
        table.add_row(
            *(row.what, str(row.side), row.steps, f"{row.seconds:.3f}", f"{row.step_seconds:.4f}"),
            *(_cell(row.tflops, ".2f"), _cell(row.of_peak, ".0%"), _cell(row.peak_gib, ".1f")),
        )
    console.print(table)
    worst = max(bench.gaps) * 1e3
    print(f"between consecutive edits: median {gap(bench):.2f} ms, worst {worst:.2f} ms")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def gap(bench: Bench) -> float:
    """Return the median milliseconds from the end of an edit to the start of the next."""
    return statistics.median(bench.gaps) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time edits on a GPU, beside plain diffusers.")
    parser.add_argument(
        "--sides", type=int, nargs="+", help="max_side of each run  [default 1024 768]"
    )
    parser.add_argument("--steps", type=int, help="steps of the edit without LoRA  [default 50]")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SETTING=VALUE", help="settings of i2ii"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model: the figures are meaningless"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    options.sides = options.sides or ([128, 96] if options.tiny else [1024, 768])
    options.steps = options.steps or (10 if options.tiny else 50)

    machine = describe_machine(Path())
    machine |= {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    } | loading.versions()
    bench = Bench(options)
    bench.run()
    if options.json:
        rows = [asdict(row) for row in bench.rows]
        print(
            json.dumps(
                {"machine": machine, "peak": bench.peak, "gap_ms": gap(bench), "rows": rows},
                indent=2,
            )
        )
        return
    show(bench, machine)


if __name__ == "__main__":
    main()
