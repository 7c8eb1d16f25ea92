"""Qwen2.5-VL's processor for pictures alone: transformers cannot build the published one without torchvision."""

from typing import Any

import transformers
from transformers import Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


class ImageProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """`Qwen2VLProcessor` without the video processor, which is what needs torchvision."""

    if transformers.__version__.startswith("4."):
        attributes = ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any) -> None:
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
