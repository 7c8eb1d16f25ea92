"""Exact optimizations: they make an edit faster and change at most the rounding of its numbers.

Each but the first and the cache of references has a setting, which is on by default if it always
helps. docs/engines/qwen.md gives their gains.
"""

import hashlib
import logging
import math
import time
from collections import OrderedDict
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor, nn

from i2ii_spool.errors import SettingsError

log = logging.getLogger(__name__)

EXACT_KERNELS = ("native", "_native_cudnn", "flash", "_flash_3")
"""Exact attention kernels by their names in diffusers: PyTorch's choice, cuDNN, flash-attn 2 and
3."""
BENCHMARK_TOKENS = 8192 + 237
"""The tokens of an edit at 1024x1024 with some text. Not a round number, which a kernel might
require."""


def drop_lm_head(pipeline: Any) -> None:
    """Skip the last layer of the language model: its predictions of the next token are not used."""
    pipeline.text_encoder.lm_head = nn.Identity()


class PromptCache:
    """Replaces `encode_prompt` of a pipeline: an LRU cache in front of the language model.

    It holds the embeddings of the last `size` (pictures, prompt), and of the current edit.
    """

    def __init__(self, pipeline: Any, size: int) -> None:
        self._encode = pipeline.encode_prompt
        self._size = size
        self._cache: OrderedDict[tuple[bytes, str], Any] = OrderedDict()
        pipeline.encode_prompt = self

    def begin_edit(self) -> None:
        """Drop all but the last `size`."""
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)

    def __call__(self, *, image: Any, prompt: str, **options: Any) -> Any:
        """Return the embeddings (1, tokens, width), and their mask or None."""
        key = _digest(image if isinstance(image, list) else [image]), prompt
        if key not in self._cache:
            self._cache[key] = self._encode(image=image, prompt=prompt, **options)
        self._cache.move_to_end(key)
        return self._cache[key]


def _digest(images: list[Any]) -> bytes:
    digest = hashlib.blake2b()
    for image in images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.digest()


class ReferenceCache:
    """Replaces `_encode_vae_image` of a pipeline: the pictures of one edit share the latents of its
    references, which do not depend on the seed."""

    def __init__(self, pipeline: Any) -> None:
        self._encode = pipeline._encode_vae_image
        self._latents: list[Tensor] = []
        self._next = 0
        pipeline._encode_vae_image = self

    def begin_edit(self) -> None:
        """Drop the latents: the references are others."""
        self._latents.clear()

    def begin_picture(self) -> None:
        """Expect the first reference."""
        self._next = 0

    def __call__(self, image: Tensor, generator: Any) -> Tensor:
        """Return the latents of the next reference."""
        if self._next == len(self._latents):
            self._latents.append(self._encode(image, generator))
        self._next += 1
        return self._latents[self._next - 1]


class ModulationCache:
    """Computes the AdaLN modulations of all blocks once for each step of a schedule.

    They depend only on the timestep, and their layers hold a third of the transformer's weights.
    The second pass of the guidance, further pictures and further jobs with the same schedule reuse
    them. The cache takes 4 MiB a step, or 7 for a model with `zero_cond_t`.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._blocks = list(pipeline.transformer.transformer_blocks)
        for block in self._blocks:
            block.img_mod, block.txt_mod = (
                CachedModulation(block.img_mod),
                CachedModulation(block.txt_mod),
            )
        self._timesteps: Tensor | None = None
        self._schedule: list[float] = []
        self._cache: dict[float, list[tuple[Tensor, Tensor]]] = {}
        # The hook runs once in each pass before the blocks, so that these can still be compiled.
        pipeline.transformer.time_text_embed.register_forward_hook(self._on_embedding)

    def clear(self) -> None:
        """Discard the modulations, because the weights or the schedule have changed."""
        self._cache.clear()

    def _on_embedding(self, _module: nn.Module, _inputs: Any, embedding: Tensor) -> None:
        timestep = self._timestep()
        if timestep not in self._cache:
            self._cache[timestep] = self._compute(embedding)
        for block, (image, text) in zip(self._blocks, self._cache[timestep], strict=True):
            block.img_mod.modulation, block.txt_mod.modulation = image, text

    def _compute(self, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the modulations of pictures and text for each block."""
        # With `zero_cond_t` the second half of the embedding is for references only.
        text = embedding.chunk(2)[0] if self._pipeline.transformer.zero_cond_t else embedding
        return [
            (block.img_mod.layers(embedding), block.txt_mod.layers(text)) for block in self._blocks
        ]

    def _timestep(self) -> float:
        scheduler = self._pipeline.scheduler
        # Copy the timesteps from the device only once for each picture.
        if scheduler.timesteps is not self._timesteps:
            self._timesteps, schedule = scheduler.timesteps, scheduler.timesteps.tolist()
            if schedule != self._schedule:
                self._schedule = schedule
                self.clear()
        return self._schedule[scheduler.step_index or 0]


class CachedModulation(nn.Module):  # type: ignore[misc]
    """Replaces the modulation layers of a block, and returns their output for the current step."""

    modulation: Tensor
    """Of the current step: (1 or 2, 6 * width)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, _embedding: Tensor) -> Tensor:
        """Return the modulation that `ModulationCache` has set for this step."""
        return self.modulation


class FrameConv(QwenImageCausalConv3d):  # type: ignore[misc]
    """The causal 3D convolution of the VAE, for a video of one frame.

    All slices of its kernel but the last meet only padding, so that a 2D convolution is enough.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """Convolve (batch, channels, frames, height, width)."""
        left, right, top, bottom, earlier, _ = self._padding
        if cache_x is not None or x.shape[2] > 1 or earlier != self.kernel_size[0] - 1:
            return super().forward(x, cache_x)
        frame = nn.functional.pad(x[:, :, 0], (left, right, top, bottom))
        return nn.functional.conv2d(
            frame, self.weight[:, :, -1], self.bias, stride=self.stride[1:]
        ).unsqueeze(2)


def use_frame_convolutions(vae: nn.Module) -> None:
    """Make the VAE convolve single frames in two dimensions: 40 % of the multiplications."""
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            # Keep the module with its weights; it remains an instance of its former class.
            module.__class__ = FrameConv


def set_attention(transformer: Any, name: str, device: torch.device) -> None:
    """Set the attention kernel; `auto` chooses the exact kernel that is fastest on this device.

    Raises `SettingsError` if the kernel is not available.
    """
    if name == "auto":
        if device.type != "cuda":
            return
        seconds = {each: _time_kernel(each, transformer, device) for each in EXACT_KERNELS}
        log.info(
            "attention: %s",
            ", ".join(f"{each} {took * 1e3:.1f} ms" for each, took in seconds.items()),
        )
        name = min(seconds, key=seconds.__getitem__)
    try:
        transformer.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as error:
        kernels = ", ".join(kernel.value for kernel in AttentionBackendName)
        raise SettingsError(
            f"{name} cannot be used: {error}; diffusers knows {kernels}", field="attention"
        ) from None


def _time_kernel(name: str, transformer: Any, device: torch.device) -> float:
    """Return the seconds of one attention with this kernel; infinite if the kernel fails."""
    shape = (
        1,
        BENCHMARK_TOKENS,
        transformer.config.num_attention_heads,
        transformer.config.attention_head_dim,
    )
    query, key, value = torch.randn(3, *shape, device=device, dtype=transformer.dtype)
    try:
        with attention_backend(name):
            dispatch_attention_fn(query, key, value)  # not timed: the first call may compile
            torch.cuda.synchronize()
            begun = time.perf_counter()
            dispatch_attention_fn(query, key, value)
            torch.cuda.synchronize()
            return time.perf_counter() - begun
    except Exception as error:  # its type depends on the kernel, its version and the card
        log.debug("attention %s: %s", name, error)
        return math.inf
