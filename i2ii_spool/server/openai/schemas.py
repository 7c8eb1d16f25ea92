"""The fields of `POST /v1/images/edits`, as of OpenAI's clients of November 2026, and our own."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from i2ii_spool.jobs.request import EditRequest, OutputFormat

OURS = tuple(name for name in EditRequest.model_fields if name != "output_format")
"""The fields that mean the same as in `POST /edit`. A size means exactly that shape."""
DRAWN_SEED = -1
"""Where none is sent: who asks OpenAI's API twice wants two pictures."""
IGNORED = ("input_fidelity", "moderation", "user", "safety_identifier")
"""Fields that clients send unasked, and that cannot matter here. `X-I2ii-Ignored` names them."""
QUALITY_PRESETS = {
    "low": "fast",
    "medium": "balanced",
    "high": "quality",
    "xhigh": "quality",
    "max": "quality",
}


class ImageEdit(BaseModel):
    """What is OpenAI's alone."""

    # One that changes the picture and cannot be had is refused, as each other name is: `markup`.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Annotated[str, Field(max_length=200, description="a model of GET /v1/models")] = ""
    quality: Annotated[
        Literal["auto", "standard", "low", "medium", "high", "xhigh", "max"],
        Field(description="the preset: low is fast, medium balanced, high and above quality"),
    ] = "auto"
    output_format: Annotated[OutputFormat, Field(description="png, jpeg or webp")] = "png"
    response_format: Annotated[
        Literal["b64_json", "url"], Field(description="pictures in the answer, or their URLs")
    ] = "b64_json"
    background: Annotated[
        Literal["auto", "opaque"], Field(description="no model here makes transparency")
    ] = "auto"
    stream: Annotated[bool, Field(description="answer with server-sent events")] = False
    partial_images: Annotated[int, Field(ge=0, le=3, description="accepted; none are made")] = 0
    input_fidelity: Annotated[str, Field(description="ignored")] = ""
    moderation: Annotated[str, Field(description="ignored")] = ""
    user: Annotated[str, Field(description="ignored")] = ""
    safety_identifier: Annotated[str, Field(description="ignored")] = ""

    @field_validator("model", *IGNORED, mode="before")
    @classmethod
    def _is_stripped(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("quality", "output_format", "response_format", "background", mode="before")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        value = value.strip().lower() if isinstance(value, str) else value
        return "jpeg" if value == "jpg" else value

    @field_validator("stream")
    @classmethod
    def _has_pictures(cls, stream: bool, info: ValidationInfo) -> bool:
        if stream and info.data.get("response_format") == "url":
            raise ValueError("has the pictures themselves; leave out response_format")
        return stream
