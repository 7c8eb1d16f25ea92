"""The engine that edits with a model, by the Qwen-Image-Edit pipelines of diffusers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.engines.diffusers import loading, loras, pipelines, presets, resolution
from i2ii_spool.errors import BadOutput, InvalidRequest, SettingsError
from i2ii_spool.images.codec import on_white
from i2ii_spool.jobs.request import PRESET_FIELDS, EditRequest
from i2ii_spool.settings import OffloadMode, Settings

log = logging.getLogger(__name__)


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

    def load(self) -> None:
        """Load the weights onto the device.

        Raises `SettingsError` if they are missing, unsupported or too large for the device.
        """
        loading.configure_allocator()
        folder = loading.find(self._model, self._settings.model_source)
        device = loading.device()
        self._offload = self._choose_offload(folder, device)
        self.attach(loading.load(folder, device), presets.version_of(folder), device)
        self.info = EngineInfo(
            engine="qwen",
            model=self._model,
            revision=loading.revision(folder),
            versions=loading.versions(),
        )

    def attach(self, pipeline: Any, version: presets.Version, device: Any) -> None:
        """Move this pipeline to the device, unless it is there, and prepare to edit with it."""
        from i2ii_spool.engines.diffusers.speed import apply

        self._pipeline = pipeline
        self._spec = pipelines.spec_of(pipeline)
        if self._spec.limit_references is not None:
            self._spec.limit_references(pipeline, self._max_side)
        self._load_presets(version)
        self._modulations = apply.apply(pipeline, self._settings, self._offload, device)
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
        if self._settings.presets is not None:
            self._presets |= presets.read_file(self._settings.presets, version)
        for name, preset in self._presets.items():
            if preset.lora is not None:
                loras.load(self._pipeline, name, preset.lora)
        self._published_scheduler = self._pipeline.scheduler
        self._active_lora: str | None = None
        log.info("presets: %s", ", ".join(self._presets))

    def _warm_up(self) -> None:
        """Make one short edit before the first job: kernels are chosen and compiled, and a lack of
        memory is detected."""
        from i2ii_spool.engines.diffusers.errors import OutOfMemory

        picture = Image.new("RGB", (self._max_side, self._max_side), "grey")
        request = EditRequest(prompt="warm up", seed=0)
        # Fewer steps than a request may have.
        request = request.model_copy(update={"num_inference_steps": 2})
        try:
            self.edit([picture], request, lambda *_: None)
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
        request = self._apply_preset(request)
        self._check(images, request)
        result_size = resolution.result_size(images[0].size, request, self._max_side)
        size = resolution.compute_size(result_size, self._max_side, self._spec.multiple)
        details = request.model_dump(include={"preset", *PRESET_FIELDS})
        details["transform"] = {"input": images[0].size, "computed": size, "result": result_size}
        details["lossy"] = self._lossy
        self.info = replace(self.info, details=details)

        shown = list(images) if self._spec.reads_alpha else [on_white(image) for image in images]
        options = self._pipeline_options(shown, request, size)
        steps = request.num_inference_steps
        made = []
        for index in range(request.n):
            options["callback_on_step_end"] = _step_callback(
                on_step, done=index * steps, total=request.n * steps
            )
            made.append(self._generate(request.seed + index, options))
        if not any(image.mode == "RGBA" for image in shown):
            made = [on_white(image) for image in made]
        return [
            image
            if image.size == result_size
            else image.resize(result_size, Image.Resampling.LANCZOS)
            for image in made
        ]

    def _apply_preset(self, request: EditRequest) -> EditRequest:
        """Activate the preset of the request; return the request with the preset's steps and
        guidance, unless it has its own."""
        if not request.preset:
            self._activate(lora=None, shift=None)
            return request
        preset = self._presets.get(request.preset)
        if preset is None:
            cure = (
                " (fast needs a LoRA: run i2ii model fetch, if there is one for this model)"
                if request.preset == "fast"
                else ""
            )
            raise InvalidRequest(
                f"unknown preset {request.preset!r}; there are {', '.join(self._presets)}{cure}",
                field="preset",
            )
        self._activate(lora=request.preset if preset.lora else None, shift=preset.shift)
        return request.model_copy(
            update={
                name: getattr(preset, name)
                for name in PRESET_FIELDS
                if name not in request.model_fields_set
            }
        )

    def _activate(self, *, lora: str | None, shift: float | None) -> None:
        if lora != self._active_lora:
            loras.activate(self._pipeline, lora)
            self._active_lora = lora
            if self._modulations is not None:
                self._modulations.clear()
        self._pipeline.scheduler = presets.with_shift(self._published_scheduler, shift)

    def _check(self, images: Sequence[Image.Image], request: EditRequest) -> None:
        if request.num_inference_steps == 1 and self._pipeline.scheduler.config.shift_terminal:
            raise InvalidRequest(
                "the schedule of this model needs at least 2 steps, got 1",
                field="num_inference_steps",
            )
        if len(images) > self._spec.max_pictures:
            raise InvalidRequest(
                f"{self._model} edits one picture at a time, got {len(images)}; "
                "send one, or ask the operator to load Qwen-Image-Edit-2509 or -2511",
                field="image",
            )

    def _pipeline_options(
        self, images: list[Image.Image], request: EditRequest, size: resolution.Size
    ) -> dict[str, Any]:
        width, height = size
        options = {
            "image": images if self._spec.max_pictures > 1 else images[0],
            "prompt": request.prompt,
            "negative_prompt": None,
            "true_cfg_scale": request.true_cfg_scale,
            "num_inference_steps": request.num_inference_steps,
            "width": width,
            "height": height,
            "output_type": "np",
        }
        if request.true_cfg_scale > 1:
            # Without a negative prompt diffusers ignores the guidance, at most with a warning.
            options["negative_prompt"] = request.negative_prompt or " "
        if self._spec.limit_references is None:
            options["output_resolution"] = self._max_side
        return options

    def _generate(self, seed: int, options: dict[str, Any]) -> Image.Image:
        """Return one picture; if memory runs out, try once more with the VAE in tiles."""
        from i2ii_spool.engines.diffusers.errors import OutOfMemory, device_errors

        with device_errors():
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
            raise BadOutput(f"the model returned a black picture for seed {seed}")
        return Image.fromarray((pixels * 255).round().astype("uint8"))

    def close(self) -> None:
        """Release the device."""
        del self._pipeline, self._modulations


def _step_callback(on_step: OnStep, *, done: int, total: int) -> Callable[..., dict[str, Any]]:
    """Return what diffusers calls after each step. An error of `on_step` ends the edit before the
    result is decoded."""

    def on_step_end(
        _pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        on_step(done + step + 1, total)
        return tensors

    return on_step_end
