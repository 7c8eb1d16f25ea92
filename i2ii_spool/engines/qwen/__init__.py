"""The engine that edits with a model: diffusers' Qwen-Image-Edit pipelines. torch is loaded here alone."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.engines.qwen import loading, sizes
from i2ii_spool.errors import EngineError, InvalidRequest
from i2ii_spool.job import EditRequest
from i2ii_spool.pictures import on_white

log = logging.getLogger(__name__)


class QwenEngine:
    """Edits with the pipeline that `model_index.json` names, on the first visible CUDA device or else on the CPU."""

    def __init__(self, model: str, *, source: str = "modelscope", max_side: int) -> None:
        self._model = model
        self._source = source
        self._max_side = max_side
        self.info = EngineInfo(engine="qwen", model=model, revision="")

    def load(self) -> None:
        """Load the weights onto the device. Raises `SettingsError` if they cannot be had, or cannot fit."""
        folder = loading.find(self._model, self._source)
        self._pipeline = loading.load(folder)
        sizes.limit_references(self._pipeline, self._max_side)
        self.info = EngineInfo(
            engine="qwen", model=self._model, revision=loading.revision(folder), versions=loading.versions()
        )

    def edit(self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep) -> list[Image.Image]:
        """Return `request.n` pictures of the size asked for; picture i is made with seed `request.seed + i`."""
        self._check(images, request)
        target = sizes.target(images[0].size, request, self._max_side)
        options = self._options([on_white(image) for image in images], request, target)
        made = []
        for index in range(request.n):
            count = _Counter(on_step, index * request.num_inference_steps, request.n * request.num_inference_steps)
            made.append(self._make(request.seed + index, options | {"callback_on_step_end": count}))
        return [image if image.size == target else image.resize(target, Image.Resampling.LANCZOS) for image in made]

    def _check(self, images: Sequence[Image.Image], request: EditRequest) -> None:
        if request.preset:
            raise InvalidRequest(f"this version has no presets, got {request.preset!r}; leave it out", field="preset")
        if len(images) > 1 and not self._takes_many:
            raise InvalidRequest(
                f"{self._model} edits one picture at a time, got {len(images)}; "
                "send one, or have the operator load Qwen-Image-Edit-2509 or -2511",
                field="image",
            )

    @property
    def _takes_many(self) -> bool:
        return type(self._pipeline).__name__ == "QwenImageEditPlusPipeline"

    def _options(self, images: list[Image.Image], request: EditRequest, target: tuple[int, int]) -> dict[str, Any]:
        width, height = sizes.working(target, self._max_side)
        return {
            "image": images if self._takes_many else images[0],
            "prompt": request.prompt,
            # Without any negative prompt diffusers drops the guidance, and says so in a warning at most.
            "negative_prompt": request.negative_prompt or " ",
            "true_cfg_scale": request.true_cfg_scale,
            "num_inference_steps": request.num_inference_steps,
            "width": width,
            "height": height,
            "output_type": "np",
        }

    def _make(self, seed: int, options: dict[str, Any]) -> Image.Image:
        """One picture; where memory runs out, once more with the VAE in tiles."""
        from i2ii_spool.engines.qwen.failures import OutOfMemory, judged

        with judged():
            try:
                with judged():
                    return self._run(seed, options)
            except OutOfMemory as error:
                log.warning("trying once more with the VAE in tiles: %s", error)
            with self._in_tiles():
                return self._run(seed, options)

    @contextmanager
    def _in_tiles(self) -> Iterator[None]:
        import torch

        torch.cuda.empty_cache()
        self._pipeline.vae.enable_tiling()
        try:
            yield
        finally:
            self._pipeline.vae.disable_tiling()
            torch.cuda.empty_cache()

    def _run(self, seed: int, options: dict[str, Any]) -> Image.Image:
        import numpy as np
        import torch

        # A generator on the CPU draws the same noise whatever the card.
        pixels = self._pipeline(**options, generator=torch.Generator("cpu").manual_seed(seed)).images[0]
        if not np.isfinite(pixels).all():
            raise EngineError(
                f"the model returned numbers that are no colours (NaN) for seed {seed}", code="bad_output"
            )
        if not pixels.any():
            raise EngineError(f"the model returned a black picture for seed {seed}", code="bad_output")
        return Image.fromarray((pixels * 255).round().astype("uint8"))

    def close(self) -> None:
        """Let go of the device."""
        del self._pipeline


class _Counter:
    """What diffusers calls after each step: counts it, and lets `on_step` raise to stop before anything is decoded."""

    def __init__(self, on_step: OnStep, before: int, steps: int) -> None:
        self._on_step = on_step
        self._before = before
        self._steps = steps

    def __call__(self, _pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._on_step(self._before + step + 1, self._steps)
        return tensors
