"""Lossy optimizations, which trade quality for speed.

All are off by default, and each result records which were on.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import StepCache

FIRST_BLOCK_THRESHOLD = 0.08
DBCACHE_THRESHOLD = 0.12
TAYLOR_INTERVAL = 3
WARM_UP_STEPS = 4
E4M3_MAX = 448.0
UNQUANTISED = ("_mod.", "img_mlp.net.2", "img_mlp.out", "lora_")
"""Parts of the names of linear layers that keep their type."""
FP8_CAPABILITY = (8, 9)


def enable_step_cache(pipeline: Any, kind: StepCache) -> None:
    """Make a step reuse the blocks' outputs of the step before, or extrapolate them from the last
    two.

    Raises `SettingsError` if a package is missing.
    """
    if kind == "first-block":
        from diffusers import FirstBlockCacheConfig

        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD))
    elif kind == "taylorseer":
        from diffusers import TaylorSeerCacheConfig

        pipeline.transformer.enable_cache(
            TaylorSeerCacheConfig(
                cache_interval=TAYLOR_INTERVAL, disable_cache_before_step=WARM_UP_STEPS, max_order=1
            )
        )
    elif kind == "dbcache":
        if importlib.util.find_spec("cache_dit") is None:
            raise SettingsError(
                "dbcache needs cache_dit: pip install 'i2ii[dbcache]'", field="step_cache"
            )
        import cache_dit

        cache_dit.enable_cache(
            pipeline,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1,
                Bn_compute_blocks=0,
                max_warmup_steps=WARM_UP_STEPS,
                residual_diff_threshold=DBCACHE_THRESHOLD,
            ),
        )


def quantise_linear_layers(transformer: Any, device: torch.device) -> None:
    """Make the linear layers of the blocks multiply 8-bit floats.

    AdaLN and the last layer of the pictures' MLP keep bfloat16, as published ablations for this
    model advise. Raises `SettingsError` if the card has no 8-bit floats.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise SettingsError(
            "this card has no 8-bit floats, which need Ada, Hopper or later: leave fp8 off",
            field="fp8",
        )
    for block in transformer.transformer_blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and not any(part in name for part in UNQUANTISED):
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, Fp8Linear(layer.to(device)))


class Fp8Linear(nn.Module):  # type: ignore[misc]
    """A linear layer in float8_e4m3: weights scaled by output channel, inputs by token."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantise(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., in_features) times the weights, (..., out_features), in the type of x."""
        rows, scale = _quantise(x.reshape(-1, self.in_features))
        # The public scaled_mm is not in every torch version that diffusers supports.
        product = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return product.reshape(*x.shape[:-1], self.out_features)


def _quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows in e4m3, and the scale of each row (rows, 1)."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-8) / E4M3_MAX
    return (rows / scale).to(torch.float8_e4m3fn), scale
