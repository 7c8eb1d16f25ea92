"""Levers that trade quality for speed. All are off until they are set, and each result records
which were on."""

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
KEPT = ("_mod.", "img_mlp.net.2", "img_mlp.out", "lora_")
"""The linear layers of a block that keep their type."""
FP8_CAPABILITY = (8, 9)


def cache_steps(pipeline: Any, kind: StepCache) -> None:
    """Have a step reuse what blocks made of the one before where little changes, or guess it from
    the last two.

    Raises `SettingsError` if that needs a package that is missing.
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


def multiply_in_fp8(transformer: Any, device: torch.device) -> None:
    """Have the blocks' linear layers multiply 8-bit floats.

    The last layer of the pictures' MLP keeps bfloat16, as published ablations for this model
    advise, and so does AdaLN. Raises `SettingsError` for a card that cannot.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise SettingsError(
            "this card has no 8-bit floats; Ada, Hopper and later ones do: leave it off",
            field="fp8",
        )
    for block in transformer.transformer_blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and not any(part in name for part in KEPT):
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, Fp8Linear(layer.to(device)))


class Fp8Linear(nn.Module):  # type: ignore[misc]
    """A linear layer in float8_e4m3: weights scaled by output channel, inputs by token as they
    come."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantised(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., in_features) times the weights, (..., out_features), in the type of x."""
        rows, scale = _quantised(x.reshape(-1, self.in_features))
        made = (
            torch._scaled_mm(  # the public scaled_mm is not in every torch that diffusers runs on
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale,
                bias=self.bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        )
        return made.reshape(*x.shape[:-1], self.out_features)


def _quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3, and what each is to be multiplied with (rows, 1)."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-8) / E4M3_MAX
    return (rows / scale).to(torch.float8_e4m3fn), scale
