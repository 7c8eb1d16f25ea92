"""Count the multiplications, additions and memory of an edit on the published architecture.

    python -m benchmarks.flops

It needs no GPU and takes about ten seconds. Its figures show why `max_side` also limits references
and what the exact optimizations gain; `offload=auto` decides by the same estimate of memory.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.common import Figure
from benchmarks.gpu import PUBLISHED
from i2ii_spool.engines.diffusers import offload
from i2ii_spool.engines.diffusers.speed import exact

SIDES = (1024, 768, 512)
TEXT_TOKENS = 256
"""The tokens in the transformer for an instruction and one picture at 384x384."""
SYSTEM_TOKENS = 64
"""The tokens of the system prompt, which only the language model reads."""


def passes() -> Iterator[Figure]:
    """One pass of the transformer, with a result and a reference that are squares of equal size."""
    transformer = QwenImageTransformer2DModel(zero_cond_t=True)
    for side in SIDES:
        latents = (side // 16) ** 2
        yield Figure(f"tokens of pictures at {side}", 2 * latents, "")
        yield Figure(f"a pass at {side}", tflop(partial(_one_pass, transformer, side)), "TFLOP")
    blocks = transformer.transformer_blocks
    yield Figure("weights of the transformer", _billions(transformer), "10^9")
    yield Figure(
        "weights of AdaLN among them",
        sum(_billions(block.img_mod) + _billions(block.txt_mod) for block in blocks),
        "10^9",
    )


def _one_pass(transformer: torch.nn.Module, side: int) -> None:
    row = side // 16
    transformer(
        hidden_states=torch.empty(1, 2 * row**2, 64),
        timestep=torch.empty(1),
        encoder_hidden_states=torch.empty(1, TEXT_TOKENS, 3584),
        img_shapes=[[(1, row, row)] * 2],
    )


def vae() -> Iterator[Figure]:
    """The VAE at 1024x1024, as published and with convolutions of single frames."""
    model = AutoencoderKLQwenImage()
    for how in ("", ", on single frames"):
        yield Figure(
            f"VAE encode{how}",
            tflop(lambda: model.encode(torch.empty(1, 3, 1, 1024, 1024))),
            "TFLOP",
        )
        yield Figure(
            f"VAE decode{how}",
            tflop(lambda: model.decode(torch.empty(1, 16, 1, 128, 128))),
            "TFLOP",
        )
        exact.use_frame_convolutions(model)


def reading() -> Iterator[Figure]:
    """The language model, without its vision tower."""
    config = Qwen2_5_VLConfig(
        text_config=dict(PUBLISHED.text), vision_config=dict(PUBLISHED.vision)
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    tokens = SYSTEM_TOKENS + TEXT_TOKENS
    seen, positions = torch.empty(1, tokens, 3584), torch.arange(tokens).expand(3, 1, tokens)
    language = model.model.language_model
    yield Figure(
        "a reading", tflop(lambda: language(inputs_embeds=seen, position_ids=positions)), "TFLOP"
    )
    yield Figure("its last layer, which is skipped", tflop(lambda: model.lm_head(seen)), "TFLOP")


def memory_needed() -> Iterator[Figure]:
    """The memory of each `offload` mode, from the weights in bfloat16 and the engine's estimate."""
    config = Qwen2_5_VLConfig(
        text_config=dict(PUBLISHED.text), vision_config=dict(PUBLISHED.vision)
    )
    parts = {
        "transformer": QwenImageTransformer2DModel(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "vae": AutoencoderKLQwenImage(),
    }
    weights = {name: round(2e9 * _billions(part)) for name, part in parts.items()}
    for side in SIDES[:2]:
        for mode, needed in offload.memory_needed(weights, side).items():
            yield Figure(f"offload {mode} at {side}", needed / offload.GIB, "GiB")


def tflop(call: Callable[[], object]) -> float:
    """Return the multiplications and additions of `call`, in 10^12."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops() / 1e12)


def _billions(module: torch.nn.Module) -> float:
    return float(sum(weight.numel() for weight in module.parameters()) / 1e9)


def main() -> None:
    """Count and print."""
    # Attention as matrix products: the counter does not support the fused kernels of a CPU.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        for count in (passes, vae, reading, memory_needed):
            for figure in count():
                print(figure.to_line())


if __name__ == "__main__":
    main()
