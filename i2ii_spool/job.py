"""A job: its id, the request in it, and the names of the files in its folder."""

import errno
import io
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
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
)
from pydantic_core import ErrorDetails

from i2ii_spool.errors import InvalidRequest, TooLarge

# --- ids -------------------------------------------------------------------------------------------------------------

# The letters of RFC 4648 base32 in ASCII order, so that a larger number is a later name in `ls`.
LETTERS = "234567abcdefghijklmnopqrstuvwxyz"
SUFFIXES = 32**6
ID = re.compile(r"\d{8}-\d{6}-\d{3}-[a-z2-7]{6}(_[A-Za-z0-9][A-Za-z0-9._-]{0,63})?", re.ASCII)


class Ids:
    """Makes job ids that sort in the order in which they were made.

    An id is UTC to the millisecond and six random letters: `20261123-101530-482-k7m2qf`. Within one process ids
    strictly increase, also when many are made in one millisecond or the clock is set back. Two processes may make the
    same id with a chance of one in 2^30 for each pair made in the same millisecond; submitting notices and draws anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._suffix = 0

    def new(self, name: str = "") -> str:
        """Return an id later than all before it, with as much of `name` behind it as is safe in a path and a URL."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._start(now)
            else:
                self._suffix += 1 + secrets.randbelow(1024)
                if self._suffix >= SUFFIXES:
                    self._start(self._millisecond + 1)
            id = _stamp(self._millisecond) + "-" + _letters(self._suffix)
        return with_name(id, name)

    def _start(self, millisecond: int) -> None:
        self._millisecond = millisecond
        self._suffix = secrets.randbelow(SUFFIXES // 2)  # the upper half is left for the rest of the millisecond


def _stamp(millisecond: int) -> str:
    seconds, thousandths = divmod(millisecond, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}-{thousandths:03d}"


def _letters(number: int) -> str:
    return "".join(LETTERS[number >> shift & 31] for shift in (25, 20, 15, 10, 5, 0))


new_id = Ids().new


def with_name(id: str, name: str) -> str:
    """Return a bare id with as much of `name` behind it as is safe in a path and a URL."""
    slug = slugify(name)
    return f"{id}_{slug}" if slug else id


def without_name(id: str) -> str:
    """Return the bare id."""
    return id.partition("_")[0]


def is_id(text: str) -> bool:
    """Whether `text` is a job id, and so may become part of a path."""
    return ID.fullmatch(text) is not None


def check_id(text: str, field: str = "id") -> str:
    """Return `text`, or raise `InvalidRequest` if it is not a job id. Call it before any path is built from it."""
    if not is_id(text):
        example = "20261123-101530-482-k7m2qf"
        raise InvalidRequest(f"{text[:100]!r} is not a job id; one looks like {example}", field=field)
    return text


def slugify(name: str) -> str:
    """Return what can stay of `name` behind an id: ASCII letters, digits, dots, dashes; at most 64 of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64]


def legible(text: str) -> str:
    """Return text from elsewhere with what cannot be printed replaced: bytes that are no UTF-8, and control characters,
    which would break a log into lines of their own, or steer the terminal of whoever reads it."""
    text = os.fsencode(text).decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


# --- the request -----------------------------------------------------------------------------------------------------

MAX_IMAGES = 3
MAX_PROMPT = 4000
MAX_SIDE = 4096

OPEN_TO_PRESETS = {"num_inference_steps", "true_cfg_scale"}
"""What a preset decides where a request with one leaves it out."""

OutputFormat = Literal["png", "jpeg", "webp"]


class EditRequest(BaseModel):
    """One edit as it was asked for: validated once, at the door, and never changed after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT, description="what to do with the picture")]
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT, description="what the result should not be")] = ""
    preset: Annotated[
        str, Field(max_length=64, description="settings that belong together, by name: docs/models.md")
    ] = ""
    num_inference_steps: Annotated[int, Field(description="steps, 10-100; fewer with a preset")] = 50
    true_cfg_scale: Annotated[
        float, Field(ge=1.0, le=10.0, allow_inf_nan=False, description="how closely the prompt is followed, 1-10")
    ] = 4.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="the same seed makes the same picture")] = 0
    size: Annotated[str, Field(description="auto: the first picture's aspect; input: exactly its size; or WxH")] = (
        "auto"
    )
    output_format: Annotated[OutputFormat, Field(description="png, jpeg or webp")] = "png"
    n: Annotated[int, Field(ge=1, le=4, description="how many pictures, with seeds seed, seed+1..., 1-4")] = 1
    name: Annotated[str, Field(max_length=200, description="your name for the job; part of its id")] = ""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("must not be empty; say what to do with the picture")
        return prompt

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        if size not in ("auto", "input") and not all(16 <= side <= MAX_SIDE for side in _sides(size)):
            raise ValueError(f"must be auto, input or WxH with sides of 16 to {MAX_SIDE} pixels, like 1024x768")
        return size

    @field_validator("num_inference_steps")
    @classmethod
    def _is_documented(cls, steps: int, info: ValidationInfo) -> int:
        # Distilled models need as few as 4 steps; they are reached through a preset, which brings their other settings.
        least = 1 if info.data.get("preset") else 10
        if not least <= steps <= 100:
            raise ValueError(f"must be from {least} to 100{'' if least == 1 else ' (from 1 with a preset)'}")
        return steps

    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels where `size` names them, else None."""
        return None if self.size in ("auto", "input") else _sides(self.size)


def _sides(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class Job(EditRequest):
    """`job.json`: the request and what came with it. Guests may leave out all but the prompt."""

    inputs: tuple[str, ...] = ()
    """File names of the pictures in the folder, first one first; empty: `input.*`, or else the pictures found."""
    submitted_at: AwareDatetime | None = None
    owner: Annotated[str, Field(max_length=64)] = ""
    """The name of the token with which it was submitted; who bears another does not see it."""

    @field_validator("inputs")
    @classmethod
    def _are_names(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(inputs) > MAX_IMAGES:
            raise ValueError(f"names {len(inputs)} pictures; a job has one to {MAX_IMAGES}")
        for name in inputs:
            if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name:
                raise ValueError(f"names {name[:100]!r}; give the names of files in the job folder")
        return inputs

    def to_json(self) -> bytes:
        """The contents of `job.json`, for people to read as well."""
        left_open = OPEN_TO_PRESETS - self.model_fields_set if self.preset else set()
        return (self.model_dump_json(indent=2, exclude=left_open) + "\n").encode()


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Return the validated model, or raise `InvalidRequest` that names the first field at fault and its limit."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0], model) from None


def parse_json(model: type[Model], text: bytes) -> Model:
    """Like `parse`, of a JSON object."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0], model) from None


def _explained(error: ErrorDetails, model: type[BaseModel]) -> InvalidRequest:
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
            cure = f"must be {_range(model, str(error['loc'][0]))}{got}"
        case "value_error":
            cure = f"{limits['error']}{got}"
        case "json_invalid":
            cure = f"is not JSON: {limits['error']}"
        case _:
            cure = error["msg"].replace("Input should be", "must be") + got
    return InvalidRequest(f"{field or JOB} {cure}", field=field)


def _range(model: type[BaseModel], field: str) -> str:
    bounds = model.model_fields[field].metadata
    least = next(bound.ge for bound in bounds if isinstance(bound, Ge))
    most = next(bound.le for bound in bounds if isinstance(bound, Le))
    return f"from {least} to {most}"


# --- the files of a job folder ---------------------------------------------------------------------------------------

JOB = "job.json"
PROMPT = "prompt.txt"
PROGRESS = "progress.json"
RESULT = "result.json"
ERROR = "error.json"
ERROR_TEXT = "error.txt"
CANCEL = "cancel"
READY = "ready"

MAX_RECORD = 64 * 1024
"""Bytes of a JSON file or of a `prompt.txt`; what we write stays far below."""


class Record(BaseModel):
    """One of the JSON files that a worker writes. Fields that a later version adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> bytes:
        """The contents of the file, for people to read as well."""
        return (self.model_dump_json(indent=2) + "\n").encode()


class Attempt(Record):
    """`attempt-N.json`: durable before work starts. How many there are is how often the job was begun."""

    worker: str
    pid: int
    started_at: AwareDatetime


class Progress(Record):
    """`progress.json`: a hint, replaced at each step."""

    phase: str
    step: int
    steps: int
    eta_seconds: float | None = None


class Timings(BaseModel):
    """Where a job's time went, in seconds."""

    model_config = ConfigDict(frozen=True)

    queue: float
    load: float
    edit: float
    save: float


class Result(Record):
    """`result.json`: the commit record. Its presence means that the edit succeeded and its pictures are whole."""

    outputs: tuple[Annotated[str, Field(pattern=r"^result(-[2-4])?\.(png|jpg|webp)$")], ...]
    width: int
    height: int
    seed: int
    attempt: int
    worker: str
    gpu_id: int | str | None
    completed_at: AwareDatetime
    timings: Timings
    engine: str
    model: str
    revision: str
    versions: dict[str, str]
    details: dict[str, Any] = {}
    """What the engine says of this edit: the preset, the settings in force, the sizes."""


class Failure(Record):
    """`error.json`: why the job ended without a picture."""

    code: str
    message: str
    field: str | None = None
    attempt: int = 0
    worker: str | None = None
    failed_at: AwareDatetime


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file that others may have put there: never through a link, never waiting for a FIFO or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise InvalidRequest(f"{os.path.basename(path)} is not a regular file; put the file itself there") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(f"{os.path.basename(path)} is not a regular file; put the file itself there")
    return io.BufferedReader(io.FileIO(descriptor))  # open() would ask whether it is a terminal


def read_record(path: Path) -> bytes:
    """Return what a small file holds that others may have put there.

    Raises `TooLarge`, or `InvalidRequest` for what is not a regular file.
    """
    with open_regular(path) as file:
        text = file.read(MAX_RECORD + 1)
    if len(text) > MAX_RECORD:
        raise TooLarge(f"{path.name} has more than {MAX_RECORD} bytes; no more are read")
    return text


def attempts(folder: Path) -> list[Path]:
    """The attempt files in `folder`, in no order."""
    return list(folder.glob("attempt-*.json"))
