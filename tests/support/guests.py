"""Guests: folders that a person puts into `incoming/` with `mv` and `cp`.

    guest = make_guest(tmp_path / "holiday", "photo.jpg", prompt="sepia")
    shell("mv", guest, service.spool.incoming)
    assert_edited(ending(service.spool, "holiday"), "photo.jpg")

`tree` is all that a folder holds.
"""

import json
import os
import subprocess
from pathlib import Path

from PIL import Image

from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.layout import Spool
from tests.support.pictures import make_picture
from tests.support.service import wait_until


def shell(*command: str | Path) -> str:
    """Run one of the tools that every system has; return what it prints."""
    return os.fsdecode(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout
    )


def ls(folder: Path) -> list[str]:
    """The entries that a person sees."""
    return shell("ls", folder).split("\n")[:-1]


def make_guest(
    folder: Path,
    *pictures: str,
    prompt: str | None = None,
    request: dict[str, object] | None = None,
) -> Path:
    """Make a folder outside the spool: pictures, and a `prompt.txt` or a `job.json`."""
    folder.mkdir()
    for name in pictures:
        make_picture(folder / name)
    if prompt is not None:
        (folder / "prompt.txt").write_text(prompt + "\n")
    if request is not None:
        (folder / "job.json").write_text(json.dumps(request))
    return folder


def named(folder: Path, name: str) -> str | None:
    """The id in `folder` that ends with the name of the guest that it was."""
    return next((id for id in ls(folder) if is_id(id) and id.endswith(f"_{name}")), None)


def ending(spool: Spool, name: str) -> Path:
    """Where the guest called `name` has ended, once it has."""
    places = (spool.done, spool.failed)
    return wait_until(
        lambda: next((place / id for place in places if (id := named(place, name))), None)
    )


def request_of(job: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((job / "job.json").read_text())
    return record


def assert_edited(job: Path, original: str) -> None:
    assert job.parent.name == "done", (job / "error.txt").read_text()
    with Image.open(job / "result.png") as edited, Image.open(job / original) as before:
        assert edited.size == before.size
        assert edited.convert("RGB").tobytes() != before.convert("RGB").tobytes()


def tree(folder: Path) -> dict[str, object]:
    """All that is in a folder, and what it holds; links are not followed."""
    held: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        content = (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        held[str(path.relative_to(folder))] = (kind, content)
    return held
