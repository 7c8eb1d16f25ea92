"""Processors without torchvision, which transformers requires only for their video half."""

from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin

SPECIAL_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def without_video(kind: Any) -> Any:
    """Return a subclass of this class of processor that has no video processor."""

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
            for name, token in SPECIAL_TOKENS.items():
                setattr(self, name, token)
                setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return ImageProcessor
