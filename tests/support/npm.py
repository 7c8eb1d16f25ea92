"""Clients that are npm packages: `tests/npm` has a script for each.

folder = installed(cache)                        # once; what the lock file names
answer = run(folder, "openai.mjs", url, tmp_path, images=2, n=1)
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "npm"
NODE = 20
"""The oldest major version that the packages run on."""


def why_not() -> str | None:
    """Why the packages cannot run here, or None."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} is not there"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    major = int(version.stdout.removeprefix("v").partition(".")[0])
    return None if major >= NODE else f"node is {version.stdout.strip()}, and not {NODE} or later"


def installed(cache: Path) -> Path:
    """Return a folder below `cache` with the scripts and their packages."""
    files = sorted(path for path in SCRIPTS.iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    folder = cache / f"npm-{digest}"
    unfinished = cache / f"{folder.name}.unfinished"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of other processes want them, too
        if folder.exists():
            return folder
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(SCRIPTS, unfinished, ignore=shutil.ignore_patterns("node_modules"))
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=unfinished, check=True, timeout=120)
        unfinished.rename(folder)
    return folder


def run(folder: Path, script: str, url: str, pictures: Path, **options: Any) -> Any:
    """Run a script; return the JSON that it prints."""
    command = ["node", script, f"{url}/v1", str(pictures), json.dumps(options)]
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
