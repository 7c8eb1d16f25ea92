"""The request: what a client asks for, validated once, and `job.json`, which holds it."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from i2ii_spool.errors import InvalidRequest, validation_message
from i2ii_spool.jobs.folder import JOB
from i2ii_spool.jobs.ids import EXAMPLE, ID, is_id
from i2ii_spool.jobs.webhooks import ENDS, EVENTS_PATTERN, MAX_URL, check_url, normal_events

MAX_IMAGES = 10
"""The most pictures that any model takes. `EngineInfo.max_images` is the limit of one model."""
MAX_PROMPT = 4000
MAX_SIDE = 4096
MAX_SEED = 2**64 - 1
RANDOM_SEED = -1

SHORT_FIELDS = (
    *("preset", "num_inference_steps", "true_cfg_scale"),
    *("seed", "size", "output_format", "output_compression", "n", "parent", "parent_n"),
    *("webhook", "webhook_events"),
)
"""Numbers and choices: spaces around one mean nothing, and a blank one is not given."""
PRESET_FIELDS = {"num_inference_steps", "true_cfg_scale"}
"""Where a request leaves these out, its preset decides them, or else the model."""
LEFT_OPEN = {*PRESET_FIELDS, "output_compression"}
"""Fields that `job.json` lacks where the request does."""
PARENT_FIELDS = {"parent", "parent_n"}
"""Likewise: an earlier version can read the `job.json` of a job without a parent."""
WEBHOOK_FIELDS = {"webhook", "webhook_events"}
"""Likewise, of a job without a webhook."""
LOSSLESS = 100

OutputFormat = Literal["png", "jpeg", "webp"]


class EditRequest(BaseModel):
    """One edit as the client asked for it: validated when it is accepted, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_PROMPT,
            description="what to do with the picture",
            json_schema_extra={"pattern": r"\S"},
        ),
    ]
    negative_prompt: Annotated[
        str, Field(max_length=MAX_PROMPT, description="what the result should not be")
    ] = ""
    preset: Annotated[
        str,
        Field(
            max_length=64,
            description="steps, guidance and LoRA together, by name: docs/engines/qwen.md",
        ),
    ] = ""
    num_inference_steps: Annotated[
        int | None,
        Field(
            description="steps, 10-100; fewer with a preset; default: the model's",
            json_schema_extra={"minimum": 1, "maximum": 100},
        ),
    ] = None
    true_cfg_scale: Annotated[
        float | None,
        Field(
            ge=1.0,
            le=10.0,
            allow_inf_nan=False,
            description="how closely the prompt is followed, 1-10; default: the model's",
        ),
    ] = None
    seed: Annotated[
        int,
        Field(
            ge=-1,
            le=MAX_SEED,
            description="the same seed makes the same picture; -1: the worker draws one",
        ),
    ] = 0
    size: Annotated[
        str,
        Field(
            description="auto: the first picture's aspect; input: exactly its size; or WxH",
            json_schema_extra={"pattern": r"^(auto|input|[0-9]{1,5}x[0-9]{1,5})$"},
        ),
    ] = "auto"
    output_format: Annotated[OutputFormat, Field(description="png, jpeg or webp")] = "png"
    output_compression: Annotated[
        int | None,
        Field(ge=0, le=LOSSLESS, description="quality of a JPEG or WebP, 0-100; default: 95"),
    ] = None
    n: Annotated[
        int, Field(ge=1, le=4, description="how many pictures, with seeds seed, seed+1..., 1-4")
    ] = 1
    name: Annotated[
        str, Field(max_length=200, description="your name for the job; part of its id")
    ] = ""
    parent: Annotated[
        str,
        Field(
            max_length=100,
            description="id of the job whose result is edited here: for your history alone",
            json_schema_extra={"pattern": f"^({ID.pattern})?$"},
        ),
    ] = ""
    parent_n: Annotated[int, Field(ge=1, le=4, description="which result of parent, 1-4")] = 1
    webhook: Annotated[
        str,
        Field(
            description="URL that is told of the job, by signed messages: docs/webhooks.md",
            json_schema_extra={"pattern": "^(https?://.+)?$", "maxLength": MAX_URL},
        ),
    ] = ""
    webhook_events: Annotated[
        str,
        Field(
            description="what is told: started, progress, completed, failed, cancelled",
            json_schema_extra={"pattern": EVENTS_PATTERN},
        ),
    ] = ENDS

    @model_validator(mode="before")
    @classmethod
    def _without_blank_fields(cls, fields: Any) -> Any:
        """Leave out choices and numbers that are blank: forms send the inputs that are not used."""
        if not isinstance(fields, Mapping):
            return fields
        return {
            name: value
            for name, value in fields.items()
            if name not in SHORT_FIELDS or not isinstance(value, str) or value.strip()
        }

    @field_validator(*SHORT_FIELDS, mode="before")
    @classmethod
    def _is_stripped(cls, value: Any) -> Any:
        if isinstance(value, bool):  # a JSON `true`, which pydantic takes for the number 1
            raise ValueError("must not be true or false")
        return value.strip() if isinstance(value, str) else value

    @field_validator("prompt", "negative_prompt", mode="before")
    @classmethod
    def _has_unix_lines(cls, text: Any) -> Any:
        """Browsers send each line break of a text area as CRLF."""
        return re.sub(r"\r\n?", "\n", text) if isinstance(text, str) else text

    @field_validator("size", mode="before")
    @classmethod
    def _is_spelt_with_x(cls, size: Any) -> Any:
        if not isinstance(size, str):
            return size
        return re.sub(r"\s*[x*\N{MULTIPLICATION SIGN}]\s*", "x", size.strip().lower())

    @field_validator("output_format", mode="before")
    @classmethod
    def _is_named_as_here(cls, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        name = name.lower().removeprefix("image/")
        return "jpeg" if name == "jpg" else name

    @field_validator("n")
    @classmethod
    def _has_seeds(cls, n: int, info: ValidationInfo) -> int:
        if info.data.get("seed", 0) + n - 1 > MAX_SEED:
            raise ValueError(f"is too large for this seed: the last one would be above {MAX_SEED}")
        return n

    @field_validator("parent")
    @classmethod
    def _is_an_id(cls, parent: str) -> str:
        if parent and not is_id(parent):
            raise ValueError(f"must be the id of a job, like {EXAMPLE}")
        return parent

    @field_validator("parent_n")
    @classmethod
    def _has_a_parent(cls, parent_n: int, info: ValidationInfo) -> int:
        if parent_n != 1 and not info.data.get("parent", "unknown"):
            raise ValueError("is for a job with a parent; set parent")
        return parent_n

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        return check_url(url) if url else url

    @field_validator("webhook_events", mode="before")
    @classmethod
    def _are_events(cls, events: Any) -> Any:
        return normal_events(events)

    @field_validator("webhook_events")
    @classmethod
    def _has_a_webhook(cls, events: str, info: ValidationInfo) -> str:
        if events != ENDS and not info.data.get("webhook", "unknown"):
            raise ValueError("is for a job with a webhook; set webhook")
        return events

    @field_validator("output_compression")
    @classmethod
    def _is_lossy(cls, quality: int | None, info: ValidationInfo) -> int | None:
        if quality not in (None, LOSSLESS) and info.data.get("output_format") == "png":
            raise ValueError("is for jpeg and webp: a png is lossless; set output_format")
        return quality

    @field_validator("prompt")
    @classmethod
    def _is_not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("must not be empty; say what to do with the picture")
        return prompt

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        named = size in ("auto", "input")
        if not named and not all(16 <= side <= MAX_SIDE for side in _sides(size)):
            raise ValueError(
                f"must be auto, input or WxH with sides of 16 to {MAX_SIDE} pixels, like 1024x768"
            )
        return size

    @field_validator("num_inference_steps")
    @classmethod
    def _is_in_range(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if steps is None:
            return None
        # Distilled models need as few as 4 steps. A preset selects them, with their other settings.
        least = 1 if info.data.get("preset") else 10
        if not least <= steps <= 100:
            hint = "" if least == 1 else " (from 1 with a preset)"
            raise ValueError(f"must be from {least} to 100{hint}")
        return steps

    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels where `size` names them, else None."""
        return None if self.size in ("auto", "input") else _sides(self.size)


def _sides(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


OWNER_MARK = ":"
"""Between the name and the id of a token; names have none."""


class Job(EditRequest):
    """`job.json`: the request and what belongs to it. A guest may leave out all but the prompt."""

    inputs: tuple[str, ...] = ()
    """File names of the pictures, in order. Empty: `input.*`, or else all pictures."""
    mask: str = ""
    """File name of the picture whose transparent pixels are edited. Empty: `mask.png`, if it is
    there."""
    submitted_at: AwareDatetime | None = None
    owner: Annotated[str, Field(max_length=80)] = ""
    """The token that submitted it: its name, `OWNER_MARK` and its id. Other tokens do not see the
    job."""

    @field_validator("inputs")
    @classmethod
    def _are_names(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(inputs) > MAX_IMAGES:
            raise ValueError(f"names {len(inputs)} pictures; a job has one to {MAX_IMAGES}")
        for name in inputs:
            _check_is_name(name)
        return inputs

    @field_validator("mask")
    @classmethod
    def _is_no_input(cls, mask: str, info: ValidationInfo) -> str:
        if mask:
            _check_is_name(mask)
        if mask in info.data.get("inputs", ()):
            raise ValueError("is one of the inputs, too")
        return mask

    @property
    def pictures(self) -> tuple[str, ...]:
        """The inputs and, behind them, the mask if there is one."""
        return (*self.inputs, self.mask) if self.mask else self.inputs

    def to_json(self) -> bytes:
        """The contents of `job.json`, indented."""
        left_open = {name for name in LEFT_OPEN if getattr(self, name) is None}
        left_open |= set() if self.parent else PARENT_FIELDS
        left_open |= set() if self.webhook else WEBHOOK_FIELDS
        return (self.model_dump_json(indent=2, exclude=left_open) + "\n").encode()


def _check_is_name(name: str) -> None:
    if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name:
        raise ValueError(f"names {name[:100]!r}; give the names of files in the job folder")


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Return the validated model.

    Raises `InvalidRequest` that names the first field at fault and its limit.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _invalid_request(error.errors(include_url=False)[0], model) from None


def parse_json(model: type[Model], text: bytes) -> Model:
    """Like `parse`, of a JSON object."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _invalid_request(error.errors(include_url=False)[0], model) from None


def _invalid_request(error: ErrorDetails, model: type[BaseModel]) -> InvalidRequest:
    field = ".".join(str(part) for part in error["loc"]) or None
    limits = error.get("ctx", {})
    got = f", got {str(error['input'])[:100]!r}"
    match error["type"]:
        case "missing":
            cure = "is required"
        case "extra_forbidden":
            cure = f"is not a field of this request; its fields are {', '.join(model.model_fields)}"
        case "string_too_short":
            cure = "must not be empty"
        case "string_too_long":
            cure = f"must be at most {limits['max_length']} characters, got {len(error['input'])}"
        case "greater_than_equal" | "less_than_equal":
            bounds = model.model_fields[str(error["loc"][0])].metadata
            least = next(bound.ge for bound in bounds if isinstance(bound, Ge))
            most = next(bound.le for bound in bounds if isinstance(bound, Le))
            cure = f"must be from {least} to {most}{got}"
        case "value_error":
            cure = f"{limits['error']}{got}"
        case "json_invalid":
            cure = f"is not JSON: {limits['error']}"
        case _:
            cure = validation_message(error) + got
    return InvalidRequest(f"{field or JOB} {cure}", field=field)
