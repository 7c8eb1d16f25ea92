"""Levers that make an edit faster and change nothing but the rounding of its numbers. Each has a
setting, on by default where it always helps. What each gains is in docs/models.md.
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

EXACT = ("native", "_native_cudnn", "flash", "_flash_3")
"""diffusers' names of attention kernels that compute the same: PyTorch's own choice, cuDNN's,
flash-attn 2 and 3."""


def drop_head(pipeline: Any) -> None:
    """Skip the language model's last layer: the words that it would say next are read by nobody."""
    pipeline.text_encoder.lm_head = nn.Identity()


def keep_prompts(pipeline: Any, size: int) -> None:
    """Have the language model read each (pictures, prompt) once; the last `size` of them are kept."""
    pipeline.encode_prompt = PromptCache(pipeline.encode_prompt, size)


class PromptCache:
    """`encode_prompt` that remembers what the language model made of the last few (pictures,
    prompt)."""

    def __init__(self, encode: Any, size: int) -> None:
        self._encode = encode
        self._size = size
        self._known: OrderedDict[tuple[bytes, str], Any] = OrderedDict()

    def __call__(self, *, image: Any, prompt: str, **options: Any) -> Any:
        """Return the embeddings (1, tokens, width) and their mask, or None where there is nothing
        to mask."""
        key = _digest(image if isinstance(image, list) else [image]), prompt
        if key not in self._known:
            self._known[key] = self._encode(image=image, prompt=prompt, **options)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return self._known[key]


def _digest(images: list[Any]) -> bytes:
    digest = hashlib.blake2b()
    for image in images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.digest()


class ModulationCache:
    """The blocks' AdaLN modulations, a third of the transformer's weights, computed once for each
    step of a schedule.

    They depend on the timestep alone: the second pass of the guidance, further pictures and further
    jobs with the same schedule need none of it. What is kept takes 4 MiB a step, and 7 for a model
    with `zero_cond_t`.
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
        self._known: dict[float, list[tuple[Tensor, Tensor]]] = {}
        # Once in each pass, before the blocks: they stay as compilable as they were.
        pipeline.transformer.time_text_embed.register_forward_hook(self._on_embedding)

    def forget(self) -> None:
        """Compute them anew: the weights have changed."""
        self._known.clear()

    def _on_embedding(self, _module: nn.Module, _inputs: Any, embedding: Tensor) -> None:
        timestep = self._timestep()
        if timestep not in self._known:
            self._known[timestep] = self._compute(embedding)
        for block, (image, text) in zip(self._blocks, self._known[timestep], strict=True):
            block.img_mod.modulation, block.txt_mod.modulation = image, text

    def _compute(self, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both modulations of each block; with `zero_cond_t` the second half of `embedding` is for
        references alone."""
        of_text = embedding.chunk(2)[0] if self._pipeline.transformer.zero_cond_t else embedding
        return [
            (block.img_mod.layers(embedding), block.txt_mod.layers(of_text))
            for block in self._blocks
        ]

    def _timestep(self) -> float:
        scheduler = self._pipeline.scheduler
        if scheduler.timesteps is not self._timesteps:  # the device is asked once for each picture
            self._timesteps, schedule = scheduler.timesteps, scheduler.timesteps.tolist()
            if schedule != self._schedule:
                self._schedule = schedule
                self.forget()
        return self._schedule[scheduler.step_index or 0]


class CachedModulation(nn.Module):  # type: ignore[misc]
    """Stands where a block has its modulation layers, and returns what they made of this step's
    embedding."""

    modulation: Tensor
    """Of the step under way: (1 or 2, 6 widths)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, _embedding: Tensor) -> Tensor:
        """What the layers have made of it already."""
        return self.modulation


class FrameConv(QwenImageCausalConv3d):  # type: ignore[misc]
    """The VAE's convolution over time, for a video of one frame: all but one slice of its kernel
    meets padding."""

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """Convolve (batch, channels, frames, height, width)."""
        left, right, top, bottom, earlier, _ = self._padding
        if cache_x is not None or x.shape[2] > 1 or earlier != self.kernel_size[0] - 1:
            return super().forward(x, cache_x)
        frame = nn.functional.pad(x[:, :, 0], (left, right, top, bottom))
        return nn.functional.conv2d(
            frame, self.weight[:, :, -1], self.bias, stride=self.stride[1:]
        ).unsqueeze(2)


def use_frames(vae: nn.Module) -> None:
    """Have the VAE convolve single frames in two dimensions: 40 % of the multiplications."""
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.__class__ = (
                FrameConv  # its weights, and whoever looks for its kind, stay as they are
            )


TOKENS = 8192 + 237
"""What the transformer sees of an edit at 1024x1024 with some text: no round number, which a kernel
might insist on."""


def choose_attention(transformer: Any, name: str, device: torch.device) -> None:
    """Set the attention kernel called `name`; `auto` takes the exact one that is fastest on this
    device.

    Raises `SettingsError` if that kernel is not there.
    """
    if name == "auto":
        if device.type != "cuda":
            return
        seconds = {each: _seconds(each, transformer, device) for each in EXACT}
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


def _seconds(name: str, transformer: Any, device: torch.device) -> float:
    """What attention takes with this kernel, infinite where it is not there or cannot."""
    shape = (
        1,
        TOKENS,
        transformer.config.num_attention_heads,
        transformer.config.attention_head_dim,
    )
    query, key, value = torch.randn(3, *shape, device=device, dtype=transformer.dtype)
    try:
        with attention_backend(name):
            dispatch_attention_fn(query, key, value)  # not counted: it may have to build itself
            torch.cuda.synchronize()
            begun = time.perf_counter()
            dispatch_attention_fn(query, key, value)
            torch.cuda.synchronize()
            return time.perf_counter() - begun
    except Exception as error:  # which one depends on the kernel, on its version and on the card
        log.debug("attention %s: %s", name, error)
        return math.inf
