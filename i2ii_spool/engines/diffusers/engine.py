"""The engine that edits with a model, by the Qwen-Image-Edit pipelines of diffusers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from i2ii_spool.engines.base import EngineInfo, OnStep, seed_of
from i2ii_spool.engines.diffusers import (
    loading,
    loras,
    pipelines,
    presets,
    prompts,
    resolution,
)
from i2ii_spool.errors import BadOutput, InvalidRequest, SettingsError
from i2ii_spool.images.codec import on_white
from i2ii_spool.jobs.offers import Offers
from i2ii_spool.jobs.request import PRESET_FIELDS, EditRequest
from i2ii_spool.settings import OffloadMode, Settings

log = logging.getLogger(__name__)

WARM_UP_PROMPT = "warm up " * 128
"""As long as most prompts are: the memory for an edit depends on it."""
UNKNOWN_LORA = object()


class QwenEngine:
    """Edits with the pipeline that `model_index.json` names, on the first visible CUDA device.

    Without a CUDA device it edits on the CPU.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model = settings.model
        self._max_side = settings.max_side
        self._offload: OffloadMode = "full"
        self.info = EngineInfo(engine="qwen", model=self._model, revision="")

    @property
    def compiling(self) -> bool:
        """See `Engine.compiling`."""
        from i2ii_spool.engines.diffusers.speed import compiled

        return compiled.is_running()

    def load(self) -> None:
        """Load the weights onto the device.

        Raises `SettingsError` if they are missing, unsupported or too large for the device.
        """
        loading.configure_allocator()
        folder = loading.find(self._model, self._settings.model_source)
        device = loading.device()
        self._offload = self._choose_offload(folder, device)
        self.attach(loading.load(folder, device), presets.version_of(folder), device)
        self.info = replace(
            self.info, revision=loading.revision(folder), versions=loading.versions(), details={}
        )

    def attach(self, pipeline: Any, version: presets.Version, device: Any) -> None:
        """Move this pipeline to the device, unless it is there, and prepare to edit with it."""
        from i2ii_spool.engines.diffusers.speed import apply

        self._pipeline = pipeline
        self._spec = pipelines.spec_of(pipeline)
        self.info = replace(self.info, max_images=self._spec.max_images)
        if self._spec.limit_references is not None:
            self._spec.limit_references(pipeline, self._max_side)
        self._load_presets(version)
        self._caches = apply.apply(pipeline, self._settings, self._offload, device)
        self._lossy = apply.lossy_settings(self._settings, self._offload)
        self._warm_up()

    def _choose_offload(self, folder: Path, device: Any) -> OffloadMode:
        """Choose the mode before loading, which takes minutes: fail at once if no mode fits."""
        if self._settings.offload != "auto":
            return self._settings.offload
        if device.type == "cpu":
            return "full"
        import torch

        from i2ii_spool.engines.diffusers import offload

        free, _total = torch.cuda.mem_get_info()
        return offload.choose_mode(offload.weight_sizes(folder), self._max_side, free)

    def _load_presets(self, version: presets.Version) -> None:
        self._presets = {"quality": self._spec.quality, "balanced": self._spec.balanced}
        lightning = loading.find_lightning(version, self._settings.model_source)
        if lightning is not None:
            self._presets["fast"] = presets.lightning_preset(lightning, version)
        self._unusable: dict[str, str] = {}
        """Why presets cannot be used: for the operator, since it names files of the server."""
        if self._settings.presets is not None:
            own, self._unusable = presets.read_file(self._settings.presets, version)
            self._presets |= own
        for name, preset in self._presets.items():
            if preset.lora is not None:
                try:
                    loras.load(self._pipeline, name, preset.lora)
                except SettingsError as error:
                    self._unusable[name] = error.message
        for name, reason in self._unusable.items():
            self._presets.pop(name, None)  # a wrong preset does not give way to ours of its name
            log.error("the preset %s cannot be used: %s", name, reason)
        self._published_scheduler = self._pipeline.scheduler
        self._active_lora: object = None
        self.info = replace(self.info, offers=Offers(presets=tuple(self._presets)))
        log.info("presets: %s", ", ".join(self._presets))

    def _warm_up(self) -> None:
        """Make one short edit before the first job: kernels are chosen and compiled, and a lack of
        memory is detected."""
        from i2ii_spool.engines.diffusers.errors import OutOfMemory

        self._tested_tokens = len(self._pipeline.processor.tokenise(WARM_UP_PROMPT))
        picture = Image.new("RGB", (self._max_side, self._max_side), "grey")
        # With guidance, which takes more memory in some models.
        request = EditRequest(prompt=WARM_UP_PROMPT, true_cfg_scale=4.0, seed=0)
        # Fewer steps than a request may have.
        request = request.model_copy(update={"num_inference_steps": 2})
        try:
            self.edit([picture], request, lambda *_: None)
        except InvalidRequest as error:
            raise SettingsError(
                f"max_side {self._max_side} is too large for this model: {error.message}",
                field="max_side",
            ) from error
        except OutOfMemory as error:
            raise SettingsError(
                f"one edit does not fit on the card with offload {self._offload}: {error}; "
                "or choose another offload",
                field="offload",
            ) from error

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """See `Engine.edit`. The details of the edit go to `info`."""
        self.info.check_count(len(images))
        recipe = self._recipe(request)
        result_size = resolution.result_size(images[0].size, request, self._max_side)
        size = resolution.compute_size(result_size, self._max_side, self._spec.multiple)
        tokens = self._check(images, request, recipe, size)
        self._may_not_fit = len(images) > 1 or tokens > self._tested_tokens
        details = {
            "preset": request.preset,
            **recipe.model_dump(include=PRESET_FIELDS),
            "transform": {"input": images[0].size, "computed": size, "result": result_size},
            "lossy": self._lossy,
        }
        self.info = replace(self.info, details=details)

        shown = list(images) if self._spec.reads_alpha else [on_white(image) for image in images]
        made = self._make(request, self._pipeline_options(shown, request, recipe, size), on_step)
        if not any(image.mode == "RGBA" for image in shown):
            made = [on_white(image) for image in made]
        return [
            image
            if image.size == result_size
            else image.resize(result_size, Image.Resampling.LANCZOS)
            for image in made
        ]

    def _make(
        self, request: EditRequest, options: dict[str, Any], on_step: OnStep
    ) -> list[Image.Image]:
        """Return all pictures of a request, as large as they are computed."""
        self._caches.begin_edit()
        steps = options["num_inference_steps"]
        made = []
        for index in range(request.n):
            options["callback_on_step_end"] = _step_callback(
                on_step, done=index * steps, total=request.n * steps
            )
            made.append(self._generate(seed_of(request, index), options))
        return made

    def _recipe(self, request: EditRequest) -> presets.Preset:
        """Activate the preset of the request, or the model as published; return it with the steps
        and the guidance of the request, if it has its own."""
        preset = self._preset(request.preset) if request.preset else self._spec.quality
        self._activate(lora=request.preset if preset.lora else None, shift=preset.shift)
        own = request.model_dump(include=PRESET_FIELDS, exclude_none=True)
        return preset.model_copy(update=own)

    def _preset(self, name: str) -> presets.Preset:
        if name in self._unusable:
            raise InvalidRequest(
                f"the preset {name!r} cannot be used: the log of the worker says why; ask the "
                f"operator to mend it, or use {', '.join(self._presets)}",
                field="preset",
            )
        if name not in self._presets:
            cure = (
                " (fast needs a LoRA: run i2ii model fetch, if there is one for this model)"
                if name == "fast"
                else ""
            )
            raise InvalidRequest(
                f"unknown preset {name!r}; there are {', '.join(self._presets)}{cure}",
                field="preset",
            )
        return self._presets[name]

    def _activate(self, *, lora: str | None, shift: float | None) -> None:
        if lora != self._active_lora:
            self._active_lora = UNKNOWN_LORA  # if it fails half-way, the next edit starts over
            loras.activate(self._pipeline, lora)
            self._active_lora = lora
            self._caches.change_weights()
        self._pipeline.scheduler = presets.with_shift(self._published_scheduler, shift)

    def _check(
        self,
        images: Sequence[Image.Image],
        request: EditRequest,
        recipe: presets.Preset,
        size: resolution.Size,
    ) -> int:
        """Return the tokens of the longest prompt. Raises `InvalidRequest`."""
        if recipe.num_inference_steps == 1 and self._pipeline.scheduler.config.shift_terminal:
            raise InvalidRequest(
                "the schedule of this model needs at least 2 steps, got 1",
                field="num_inference_steps",
            )
        if recipe.true_cfg_scale <= 1 and request.negative_prompt.strip():
            raise InvalidRequest(
                "negative_prompt has no effect at true_cfg_scale 1: leave it out, or set a "
                "true_cfg_scale above 1",
                field="negative_prompt",
            )
        texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        sizes = [image.size for image in images]
        return prompts.check(self._pipeline, texts, sizes, size, self._max_side)

    def _pipeline_options(
        self,
        images: list[Image.Image],
        request: EditRequest,
        recipe: presets.Preset,
        size: resolution.Size,
    ) -> dict[str, Any]:
        width, height = size
        options = {
            "image": images if self._spec.max_images > 1 else images[0],
            "prompt": request.prompt,
            "negative_prompt": None,
            "true_cfg_scale": recipe.true_cfg_scale,
            "num_inference_steps": recipe.num_inference_steps,
            "width": width,
            "height": height,
            "output_type": "np",
        }
        if recipe.true_cfg_scale > 1:
            # Without a negative prompt diffusers ignores the guidance, at most with a warning.
            options["negative_prompt"] = request.negative_prompt or " "
        if self._spec.limit_references is None:
            options["output_resolution"] = self._max_side
        return options

    def _generate(self, seed: int, options: dict[str, Any]) -> Image.Image:
        """Return one picture; if memory runs out, try once more with the VAE in tiles."""
        from i2ii_spool.engines.diffusers.errors import (
            LargeEditOutOfMemory,
            OutOfMemory,
            device_errors,
        )

        with device_errors(LargeEditOutOfMemory if self._may_not_fit else OutOfMemory):
            try:
                with device_errors():
                    return self._run_pipeline(seed, options)
            except OutOfMemory as error:
                log.warning("trying once more with the VAE in tiles: %s", error)
            with self._tiled_vae():
                return self._run_pipeline(seed, options)

    @contextmanager
    def _tiled_vae(self) -> Iterator[None]:
        import torch

        torch.cuda.empty_cache()
        self._pipeline.vae.enable_tiling()
        try:
            yield
        finally:
            self._pipeline.vae.disable_tiling()
            torch.cuda.empty_cache()

    def _run_pipeline(self, seed: int, options: dict[str, Any]) -> Image.Image:
        import numpy as np
        import torch

        from i2ii_spool.engines.diffusers.errors import BlackPicture

        self._caches.references.begin_picture()
        # The CPU draws the same noise whatever the card.
        generator = torch.Generator("cpu").manual_seed(seed)
        try:
            pixels = self._pipeline(**options, generator=generator).images[0]
        except BaseException:
            # The pipeline resets offloading and step caches itself only when it succeeds.
            self._pipeline.maybe_free_model_hooks()
            raise
        if not np.isfinite(pixels).all():
            raise BadOutput(f"the model returned pixels that are not finite (NaN) for seed {seed}")
        if not pixels[..., :3].any():
            raise BlackPicture(f"the model returned a black picture for seed {seed}")
        return Image.fromarray((pixels * 255).round().astype("uint8"))

    def close(self) -> None:
        """Release the device."""
        del self._pipeline, self._caches


def _step_callback(on_step: OnStep, *, done: int, total: int) -> Callable[..., dict[str, Any]]:
    """Return what diffusers calls after each step. An error of `on_step` ends the edit before the
    result is decoded."""

    def on_step_end(
        _pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        on_step(done + step + 1, total)
        return tensors

    return on_step_end
