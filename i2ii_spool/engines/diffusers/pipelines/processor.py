"""Processors of pictures and text: without torchvision, and with a client's words as plain text.

transformers requires torchvision only for the video half of a processor.
"""

from typing import Any

import torch
import transformers
from transformers.processing_utils import ProcessorMixin

VISION_END = "<|vision_end|>"
SPECIAL_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": VISION_END,
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

        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            """Return the inputs of the language model.

            `text` is a list of one prompt within the template of its pipeline. The template's
            special tokens are such; those that a client writes are plain text.
            """
            if images is None:
                return super().__call__(images=None, text=text, **options)
            count = len(images) if isinstance(images, list) else 1
            head, words, tail = split_template(text[0], count)
            inputs = super().__call__(images=images, text=[head + tail], **options)
            end = inputs["input_ids"].shape[1] - len(self.tokenizer(tail)["input_ids"])
            ids = inputs["input_ids"].new_tensor([self.tokenise(words)])
            for name, added in (
                ("input_ids", ids),
                ("attention_mask", torch.ones_like(ids)),
                ("mm_token_type_ids", torch.zeros_like(ids)),
            ):
                if name in inputs:
                    whole = inputs[name]
                    inputs[name] = torch.cat([whole[:, :end], added, whole[:, end:]], dim=1)
            return inputs

        def tokenise(self, words: str) -> list[int]:
            """Return the tokens of a client's words, none of them special."""
            tokens = self.tokenizer(words, split_special_tokens=True, add_special_tokens=False)
            return list(tokens["input_ids"])

    return ImageProcessor


def split_template(text: str, pictures: int) -> tuple[str, str, str]:
    """Return the template before a prompt, the prompt, and the template behind it.

    In every template the prompt follows the last picture, and one `<|im_end|>` follows the prompt.
    The tokens of the three parts are those of the whole, since special tokens separate them.
    """
    begin = 0
    for _ in range(pictures):
        begin = text.index(VISION_END, begin) + len(VISION_END)
    end = text.rindex("<|im_end|>")
    return text[:begin], text[begin:end], text[end:]
