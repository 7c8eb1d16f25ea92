"""The request of a job folder: its `job.json` or prompt, and which files are its pictures."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.images import formats
from i2ii_spool.images.probe import Header
from i2ii_spool.jobs.folder import JOB, PROMPT, READY, WRITTEN, JobFolder, read_record
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest, Job, parse, parse_json
from i2ii_spool.jobs.text import decode_text, repeated_key
from i2ii_spool.spool.folder_check import content_format
from i2ii_spool.spool.outputs import workers_pictures
from i2ii_spool.spool.side_files import is_silly_renamed

# Windows hides the last extension, so that people add one that is there already.
_PROMPT_NAME = re.compile(r"prompt(\.txt)*", re.IGNORECASE)
_JOB_NAME = re.compile(r"job\.json(\.txt|\.json)*", re.IGNORECASE)
# A file of such a name is meant to be a picture, whatever it holds.
_PICTURE_NAME = re.compile(
    r".+\.(png|apng|jpe?g|jpe|jfif|pjpe?g|webp|gif|tiff?|avif|hei[cf])", re.IGNORECASE
)
_INPUT_NAME = re.compile(r"input(-\d+)?\.\w+", re.IGNORECASE)
_MASK_NAME = re.compile(r"mask\.\w+", re.IGNORECASE)


def read_request(folder: Path, names: Sequence[str], *, title: str) -> Job:
    """Return the request of a folder with files called `names`; one without `job.json` is called
    `title`. Raises `InvalidRequest`, or `TooLarge`."""
    for name in names:
        if name != JOB and _JOB_NAME.fullmatch(name):
            raise InvalidRequest(f"{name} is not read; rename it to {JOB}")
    prompt = _read_prompt(folder, names)
    if JOB in names:
        return _read_job(folder, prompt)
    if prompt is None:
        similar = [name for name in names if name.lower().startswith("prompt")]
        found = f"; found {similar[0]}, which is not read" if similar else ""
        raise InvalidRequest(
            f"there is neither a {PROMPT} nor a {JOB}{found}: write the instruction into {PROMPT}"
        )
    return parse(Job, {**prompt, "name": title[:200], "submitted_at": datetime.now(UTC)})


def _read_prompt(folder: Path, names: Sequence[str]) -> dict[str, str] | None:
    prompts = [name for name in names if _PROMPT_NAME.fullmatch(name)]
    if len(prompts) > 1:
        raise InvalidRequest(f"there are two prompts, {' and '.join(prompts[:2])}; remove one")
    for name in prompts:
        return {"prompt": decode_text(read_record(folder / name), name).strip()}
    return None


def _read_job(folder: Path, prompt: dict[str, str] | None) -> Job:
    text = decode_text(read_record(folder / JOB), JOB)
    _check_keys(text)
    job = parse_json(Job, text.encode())
    # A prompt.txt that was changed after its job.json was written would not count.
    if prompt is not None and parse(Job, prompt).prompt != job.prompt.strip():
        raise InvalidRequest(
            f"{PROMPT} and {JOB} have different prompts; change {JOB}, or remove one of the two",
            field="prompt",
        )
    return job


def _check_keys(text: str) -> None:
    """Raise `InvalidRequest` if an object of a JSON text has a key twice: only one would count."""

    def check(pairs: list[tuple[str, object]]) -> None:
        if (key := repeated_key(pairs)) is not None:
            raise InvalidRequest(f"{JOB} has {key[:100]!r} twice; keep one", field=key[:100])

    try:
        json.loads(text, object_pairs_hook=check)
    except (ValueError, RecursionError):  # not JSON: `parse_json` says so
        return


def find_pictures(folder: Path, names: Iterable[str], job: Job) -> tuple[tuple[str, ...], str]:
    """Return which of `names` are the inputs and the mask of a job: those that it names, and else
    those that are pictures. The mask is "" if there is none. Raises `InvalidRequest`."""
    there = {name for name in names if not is_silly_renamed(name)}
    mask = job.mask or _find_mask(folder, there - set(job.inputs))
    return job.inputs or _find_inputs(folder, there - {mask}, mask), mask


def pictures_of(job: JobFolder, record: Job) -> tuple[tuple[str, ...], str]:
    """Return the inputs and the mask of an admitted job, whose request is `record`.

    Like `find_pictures`; where its user has the pictures wrong by now, there are none. A request
    that names its pictures costs nothing.
    """
    if record.inputs:
        return record.inputs, record.mask
    names = set(os.listdir(job.path)) - workers_pictures(job)
    try:
        return find_pictures(job.path, names, record)
    except (InvalidRequest, PermissionError):
        return (), ""


def _find_mask(folder: Path, names: Iterable[str]) -> str:
    """Return the picture that is called `mask.*`, or ""."""
    masks = [name for name in names if _MASK_NAME.fullmatch(name)]
    masks = [name for name in masks if formats.is_picture(content_format(folder / name))]
    if len(masks) > 1:
        named = " and ".join(sorted(masks)[:2])
        raise InvalidRequest(f"there are two masks, {named}; remove one", field="mask")
    return masks[0] if masks else ""


def _find_inputs(folder: Path, names: Iterable[str], mask: str) -> tuple[str, ...]:
    """Return those of `names` that are pictures, known by their content, in the order of an edit:
    `input.*` first, then by name. The `mask`, if any, is none of them.

    Raises `InvalidRequest` if there is none, or one that is not read.
    """
    found = {name: content_format(folder / name) for name in names}
    for name, kind in found.items():
        if formats.is_picture(kind) and not formats.is_read(kind):
            raise formats.unsupported(kind, name)
    pictures = [
        name
        for name, kind in found.items()
        if formats.is_picture(kind) or _PICTURE_NAME.fullmatch(name)
    ]
    if not pictures:
        others = [
            name
            for name in found
            if not (_PROMPT_NAME.fullmatch(name) or WRITTEN.fullmatch(name) or name == READY)
        ]
        hint = f": {formats.unsupported(found[others[0]], others[0])}" if others else ""
        but = f" but {mask}, which is taken for a mask" if mask else ""
        raise InvalidRequest(f"there is no picture in the folder{but}{hint}", field="inputs")
    check_input_count(pictures)
    return tuple(sorted(pictures, key=_order))


def check_result(request: EditRequest, first: Header, mask: Header | None = None) -> None:
    """Raise `InvalidRequest` if the result is known to be larger than its format can hold, or
    cannot have the size that is asked for: with a mask it has that of the first picture."""
    if mask is not None:
        sides = (mask.width, mask.height)
        if request.sides() not in (None, sides):
            raise InvalidRequest(
                f"size must be auto, input or {sides[0]}x{sides[1]} with a mask: the result has "
                f"the size of the picture, got {request.size!r}",
                field="size",
            )
        first = mask
    if request.size == "input" or mask is not None:
        formats.check_encodable(first.width, first.height, request.output_format)


def check_input_count(names: Sequence[str]) -> None:
    """Raise `InvalidRequest` if a job cannot have so many pictures."""
    if len(names) > MAX_IMAGES:
        raise InvalidRequest(
            f"there are {len(names)} pictures; a job has one to {MAX_IMAGES}: keep those, or name "
            f"them as inputs in {JOB}",
            field="inputs",
        )


def _order(name: str) -> list[tuple[int, str]]:
    """Sort `input.png` before `input-2.png` before `input-10.png`, and before `a.png`."""
    parts = re.split(r"(\d+)", Path(name).stem)
    natural = [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
    return [(0 if _INPUT_NAME.fullmatch(name) else 1, ""), *natural]
