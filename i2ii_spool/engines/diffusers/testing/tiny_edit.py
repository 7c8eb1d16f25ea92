"""A complete pipeline of a few megabytes with random weights, for tests and for operators to try.

It has the published layout and geometry (8x VAE, 16 latent channels, the real scheduler): all of
the real code runs on it, on a CPU, within seconds. Its results are coloured noise.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor
from transformers.utils import logging

from i2ii_spool.engines.diffusers.loading import INDEX_FILE, REVISION_FILE
from i2ii_spool.engines.diffusers.pipelines.qwen_edit import processor_class
from i2ii_spool.engines.diffusers.presets import Version

LABEL = "tiny-random-weights"
README = """# Tiny random weights

This folder has the layout of Qwen-Image-Edit and random weights, made by `i2ii model tiny`. It runs
the whole service on a CPU within seconds. Its results are noise.
"""

HIDDEN = 32
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
"""In the order of Qwen2.5-VL."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The pipelines drop the first 64 tokens, which are their system prompt. The tokenizer is trained on
# that prompt, so that each of its words is one token here, too.
SYSTEM_PROMPT = (
    "system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. "
    "Generate a new image that meets the user's requirements while maintaining consistency with "
    "the original input where appropriate.\nuser\nPicture 1: assistant\n"
)
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Splits text into words, like the tokenizer of Qwen2."""


@dataclass(frozen=True)
class Shape:
    """Width and depth of the three models, as options of their configurations."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]


TINY = Shape(
    transformer={
        "num_layers": 2,
        "attention_head_dim": HIDDEN,
        "num_attention_heads": 2,
        "joint_attention_dim": HIDDEN,
        "axes_dims_rope": (8, 12, 12),
    },
    vae={"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1},
    text={
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 512,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    },
    vision={
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
    },
)


def write(folder: Path, like: Version) -> None:
    """Write the folder of a tiny model with the layout of version `like`."""
    logging.disable_progress_bar()
    if like == "2.1":
        from i2ii_spool.engines.diffusers.testing import tiny_21

        pipeline, kind = tiny_21.random_pipeline(), "Qwen3VLProcessor"
    else:
        pipeline = random_pipeline(TINY, one_picture=like == "1", zero_cond_t=like == "2511")
        kind = "Qwen2VLProcessor"
    pipeline.save_pretrained(folder)
    index = json.loads((folder / INDEX_FILE).read_text())
    index["processor"] = ["transformers", kind]  # as published, instead of the subclass
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    (folder / REVISION_FILE).write_text(LABEL + "\n")
    (folder / "README.md").write_text(README)


def random_pipeline(shape: Shape, *, one_picture: bool = False, zero_cond_t: bool = False) -> Any:
    """Return a pipeline of this shape, on torch's default device and of its default type."""
    torch.manual_seed(0)
    words = tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, zero_cond_t=zero_cond_t, **shape.transformer
    )
    vae = AutoencoderKLQwenImage(temperal_downsample=[False, True, True], **shape.vae)
    text_encoder = _text_encoder(shape, words)
    for module, gain in ((transformer, 1.6), (vae, 1.3), (text_encoder, 1.0)):
        redraw(module.eval().requires_grad_(False), gain)
    kind = QwenImageEditPipeline if one_picture else QwenImageEditPlusPipeline
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        processor=processor_class()(Qwen2VLImageProcessor(), words, chat_template=CHAT_TEMPLATE),
        transformer=transformer,
    )


def redraw(module: nn.Module, gain: float) -> None:
    """Redraw the weights: with those of the initialisation, outputs hardly depend on inputs."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, gain / weight[0].numel() ** 0.5)


def _text_encoder(shape: Shape, words: Any) -> Any:
    ids = token_ids(words)
    config = Qwen2_5_VLConfig(
        text_config={**shape.text, "rope_theta": 1_000_000.0, **ids["text"]},
        vision_config={**shape.vision, "window_size": 112, "tokens_per_second": 2},
        **ids["pictures"],
        vision_token_id=words.convert_tokens_to_ids("<|vision_pad|>"),
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def token_ids(words: Any) -> dict[str, dict[str, int]]:
    """Return the options of a vision-language model's configuration that name special tokens."""
    text = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    pictures = {name: f"<|{name}|>" for name in ("vision_start", "vision_end")}
    pictures |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    return {
        part: {
            f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in names.items()
        }
        for part, names in (("text", text), ("pictures", pictures))
    }


def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer like that of Qwen2, trained on the system prompt."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, min_frequency=1, show_progress=False, initial_alphabet=alphabet
    )
    bpe.train_from_iterator([SYSTEM_PROMPT] * 4, trainer)
    return _as_qwen2(json.loads(bpe.to_str())["model"])


def _as_qwen2(trained: dict[str, Any]) -> Any:
    vocabulary = trained["vocab"]
    vocabulary.setdefault("<|endoftext|>", len(vocabulary))
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in trained["merges"]]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text(
            "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs)
        )
        (Path(folder) / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "unk_token": "<|endoftext|>",
                    "eos_token": "<|im_end|>",
                    "pad_token": "<|endoftext|>",
                }
            )
        )
        words = Qwen2Tokenizer.from_pretrained(folder)
    words.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
            ]
        }
    )
    words.chat_template = CHAT_TEMPLATE
    return words
