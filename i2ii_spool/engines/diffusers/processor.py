"""The language models' processors for pictures alone: transformers cannot build those published
without torchvision."""

from typing import Any

import transformers
from transformers import Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def pictures_only(kind: Any) -> Any:
    """This class of processor without the video processor, which is what needs torchvision."""

    class ImageProcessor(kind):  # type: ignore[misc]
        if transformers.__version__.startswith("4."):
            attributes = ["image_processor", "tokenizer"]

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: Any = None,
            **_: Any,
        ) -> None:
            for name, token in TOKENS.items():
                setattr(self, name, token)
                setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return ImageProcessor


def of_edit() -> Any:
    """The class for Qwen-Image-Edit."""
    return pictures_only(Qwen2VLProcessor)


def of_21() -> Any:
    """The class for Qwen-Image-2.1."""
    from transformers import (
        Qwen3VLProcessor,  # not in every transformers that Qwen-Image-Edit runs on
    )

    return pictures_only(Qwen3VLProcessor)
