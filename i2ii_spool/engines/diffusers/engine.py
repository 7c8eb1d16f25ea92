"""The engine that edits with a model: diffusers' Qwen-Image-Edit pipelines. torch is loaded here
alone."""

import logging
from collections.abc import Iterator, Sequence
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
    """Edits with the pipeline that `model_index.json` names, on the first visible CUDA device or
    else on the CPU."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model = settings.model
        self._max_side = settings.max_side
        self._offload: OffloadMode = "full"
        self.info = EngineInfo(engine="qwen", model=self._model, revision="")

    def load(self) -> None:
        """Load the weights onto the device. Raises `SettingsError` if they cannot be had, or cannot
        fit."""
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
        """Get ready to edit with this pipeline, which is on the device already, or goes there."""
        from i2ii_spool.engines.diffusers.speed import apply

        self._pipeline = pipeline
        self._family = pipelines.of(pipeline)
        if not self._family.takes_resolution:
            resolution.limit_references(pipeline, self._max_side)
        self._load_presets(version)
        self._modulations = apply.apply(pipeline, self._settings, self._offload, device)
        self._lossy = apply.lossy_settings(self._settings, self._offload)
        self._warm_up()

    def _warm_up(self) -> None:
        """Edit once before anybody waits for it: kernels are chosen and compiled, and that memory
        suffices is seen."""
        from i2ii_spool.engines.diffusers.errors import OutOfMemory

        request = EditRequest(prompt="warm up", seed=0).model_copy(
            update={"num_inference_steps": 2}
        )
        try:
            self.edit(
                [Image.new("RGB", (self._max_side, self._max_side), "grey")],
                request,
                lambda *_: None,
            )
        except OutOfMemory as error:
            raise SettingsError(
                f"offload {self._offload} is too little for one edit: {error}; or choose another",
                field="offload",
            ) from error

    def _choose_offload(self, folder: Path, device: Any) -> OffloadMode:
        """Choose before minutes of loading: that the weights cannot fit is said at once."""
        if self._settings.offload != "auto":
            return self._settings.offload
        if device.type == "cpu":
            return "full"
        import torch

        from i2ii_spool.engines.diffusers import offload

        return offload.choose(
            offload.weights(folder), self._max_side, free=torch.cuda.mem_get_info()[0]
        )

    def _load_presets(self, version: presets.Version) -> None:
        self._presets = {"quality": self._family.quality, "balanced": self._family.balanced}
        lightning = loading.find_lightning(version, self._settings.model_source)
        if lightning is not None:
            self._presets["fast"] = presets.fast(lightning, version)
        if self._settings.presets is not None:
            self._presets |= presets.read(self._settings.presets, version)
        for name, preset in self._presets.items():
            if preset.lora is not None:
                loras.load(self._pipeline, name, preset.lora)
        self._published_scheduler = self._pipeline.scheduler
        self._active_lora: str | None = None
        log.info("presets: %s", ", ".join(self._presets))

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """Return `request.n` pictures of the size asked for; picture i is made with seed
        `request.seed + i`."""
        request = self._with_preset(request)
        self._check(images, request)
        target = resolution.target(images[0].size, request, self._max_side)
        self._note(request, images[0].size, target)
        shown = list(images) if self._family.reads_alpha else [on_white(image) for image in images]
        options = self._options(shown, request, target)
        made = []
        for index in range(request.n):
            count = _Counter(
                on_step,
                index * request.num_inference_steps,
                request.n * request.num_inference_steps,
            )
            made.append(self._make(request.seed + index, options | {"callback_on_step_end": count}))
        if not any(image.mode == "RGBA" for image in shown):
            made = [on_white(image) for image in made]
        return [
            image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)
            for image in made
        ]

    def _with_preset(self, request: EditRequest) -> EditRequest:
        """Put the preset into force; return the request with what it decides filled in."""
        if not request.preset:
            self._use(None, None)
            return request
        preset = self._presets.get(request.preset)
        if preset is None:
            cure = (
                " (fast needs its LoRA, which i2ii model fetch brings if there is one)"
                if request.preset == "fast"
                else ""
            )
            raise InvalidRequest(
                f"{request.preset!r} is not a preset here; there are {', '.join(self._presets)}{cure}",
                field="preset",
            )
        self._use(request.preset if preset.lora else None, preset.shift)
        decided = {
            name: getattr(preset, name)
            for name in PRESET_FIELDS
            if name not in request.model_fields_set
        }
        return request.model_copy(update=decided)

    def _use(self, lora: str | None, shift: float | None) -> None:
        if lora != self._active_lora:
            loras.activate(self._pipeline, lora)
            self._active_lora = lora
            if self._modulations is not None:
                self._modulations.forget()
        self._pipeline.scheduler = presets.scheduler(self._published_scheduler, shift)

    def _note(self, request: EditRequest, source: resolution.Size, target: resolution.Size) -> None:
        transform = {"input": source, "computed": self._working(target), "result": target}
        used = request.model_dump(include={"preset", *PRESET_FIELDS})
        self.info = replace(
            self.info, details=used | {"transform": transform, "lossy": self._lossy}
        )

    def _check(self, images: Sequence[Image.Image], request: EditRequest) -> None:
        if request.num_inference_steps == 1 and self._pipeline.scheduler.config.shift_terminal:
            raise InvalidRequest(
                "this model's schedule needs 2 steps at least, got 1", field="num_inference_steps"
            )
        if len(images) > self._family.most_pictures:
            raise InvalidRequest(
                f"{self._model} edits one picture at a time, got {len(images)}; "
                "send one, or have the operator load Qwen-Image-Edit-2509 or -2511",
                field="image",
            )

    def _working(self, target: resolution.Size) -> resolution.Size:
        return resolution.working(target, self._max_side, self._family.multiple)

    def _options(
        self, images: list[Image.Image], request: EditRequest, target: tuple[int, int]
    ) -> dict[str, Any]:
        width, height = self._working(target)
        resolution = {"output_resolution": self._max_side} if self._family.takes_resolution else {}
        return resolution | {
            "image": images if self._family.most_pictures > 1 else images[0],
            "prompt": request.prompt,
            # Without any negative prompt diffusers drops the guidance, and says so in a warning at
            # most.
            "negative_prompt": (request.negative_prompt or " ")
            if request.true_cfg_scale > 1
            else None,
            "true_cfg_scale": request.true_cfg_scale,
            "num_inference_steps": request.num_inference_steps,
            "width": width,
            "height": height,
            "output_type": "np",
        }

    def _make(self, seed: int, options: dict[str, Any]) -> Image.Image:
        """One picture; where memory runs out, once more with the VAE in tiles."""
        from i2ii_spool.engines.diffusers.errors import OutOfMemory, judged

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
        try:
            pixels = self._pipeline(
                **options, generator=torch.Generator("cpu").manual_seed(seed)
            ).images[0]
        except BaseException:
            self._pipeline.maybe_free_model_hooks()  # as at its regular end: nothing half done meets the next edit
            raise
        if not np.isfinite(pixels).all():
            raise BadOutput(f"the model returned numbers that are no colours (NaN) for seed {seed}")
        if not pixels[..., :3].any():
            raise BadOutput(f"the model returned a black picture for seed {seed}")
        return Image.fromarray((pixels * 255).round().astype("uint8"))

    def close(self) -> None:
        """Let go of the device."""
        del self._pipeline, self._modulations


class _Counter:
    """What diffusers calls after each step: counts it, and lets `on_step` raise to stop before
    anything is decoded."""

    def __init__(self, on_step: OnStep, before: int, steps: int) -> None:
        self._on_step = on_step
        self._before = before
        self._steps = steps

    def __call__(
        self, _pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self._on_step(self._before + step + 1, self._steps)
        return tensors
