"""A tiny pipeline with the architecture of Qwen-Image-2.1.

It is a module of its own, because older versions of diffusers and transformers lack its classes.
"""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from i2ii_spool.engines.diffusers.pipelines.qwen_image_21 import processor_class
from i2ii_spool.engines.diffusers.testing.tiny_edit import (
    CHAT_TEMPLATE,
    HIDDEN,
    SCHEDULER,
    redraw,
    token_ids,
    tokenizer,
)

PATCH = 16


def random_pipeline() -> Any:
    """Return a pipeline of random weights: 16x VAE with 64 latent channels, as published, but
    narrow and shallow."""
    torch.manual_seed(0)
    words = tokenizer()
    transformer = QwenImage21Transformer2DModel(
        num_layers=2,
        attention_head_dim=HIDDEN,
        num_attention_heads=2,
        context_in_dim=HIDDEN,
        axes_dims_rope=(8, 12, 12),
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=8, decoder_base_dim=8, dim_mult=[1, 2, 2, 2, 2], num_res_blocks=1
    )
    text_encoder = _text_encoder(words)
    for module, gain in ((transformer, 1.6), (vae, 1.3), (text_encoder, 1.0)):
        redraw(module.eval().requires_grad_(False), gain)
    return QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        processor=processor_class()(
            Qwen2VLImageProcessor(patch_size=PATCH), words, chat_template=CHAT_TEMPLATE
        ),
        transformer=transformer,
    )


def _text_encoder(words: Any) -> Any:
    ids = token_ids(words)
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 512,
            "rope_theta": 5_000_000.0,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
            **ids["text"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **ids["pictures"],
        tie_word_embeddings=False,
    )
    return Qwen3VLForConditionalGeneration(config)
