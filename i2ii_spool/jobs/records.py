"""The JSON records that a worker writes into a job folder."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.folder import RESULT_PICTURE, read_record
from i2ii_spool.jobs.request import Model, parse_json


def without_null(schema: dict[str, Any]) -> None:
    """Change the schema of a model whose fields are left out where they are None: they are never
    null."""
    for described in schema["properties"].values():
        choices = [each for each in described.get("anyOf", ()) if each != {"type": "null"}]
        if len(choices) == 1:
            del described["anyOf"]
            described.update(choices[0])
        elif choices:
            described["anyOf"] = choices
        if described.get("default", ...) is None:
            del described["default"]


class Record(BaseModel):
    """A JSON file that a worker writes. Fields that a later version adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> bytes:
        """The contents of the file, indented."""
        return (self.model_dump_json(indent=2) + "\n").encode()


class Attempt(Record):
    """`attempt-N.json`: durable before work starts. Their number is the crash counter."""

    worker: str
    pid: int
    started_at: AwareDatetime
    kept: tuple[str, ...] = ()
    """Names like a result's that were in the folder before the first attempt: a user's files, which
    no result overwrites."""


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
    """From the submission to the claim by the worker."""
    load: float
    """To read and decode the pictures."""
    edit: float
    """To edit them."""
    save: float
    """To encode the results and write them to disk."""


class Result(Record):
    """`result.json`: the commit record. Its presence means that the edit succeeded and its pictures
    are whole."""

    outputs: tuple[Annotated[str, Field(pattern=f"^{RESULT_PICTURE.pattern}$")], ...]
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
    """What the engine reports of this edit: preset, settings in force, sizes."""


class Failure(Record):
    """`error.json`: why the job ended without a picture. `code` is one of `errors.REGISTER`."""

    code: str
    message: str
    field: str | None = None
    attempt: int = 0
    worker: str | None = None
    failed_at: AwareDatetime


def read_or_none(model: type[Model], path: Path) -> Model | None:
    """Return the record, or None if it is missing, closed to this user or not what it should be."""
    try:
        return parse_json(model, read_record(path))
    except (FileNotFoundError, PermissionError, InvalidRequest):
        return None
