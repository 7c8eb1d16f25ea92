"""The `i2ii` command as a process.

    answer = cli(service, "show", id, check=False)            # of tests.support.service
    assert "there is no job" in the_error(answer)

`run_in` runs it in a folder, with more variables.
"""

import subprocess
import sys
from pathlib import Path

from i2ii_spool.spool.layout import Spool
from tests.support.service import Service, cli


def run_in(
    folder: Path, service: Service, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, with more variables in its environment."""
    command = [sys.executable, "-m", "i2ii_spool", *arguments]
    environment = {**service.environment, **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def the_error(answer: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it failed."""
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stderr.startswith("i2ii: ")
    return answer.stderr


def usage_error(answer: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a wrong call gets: the usage, and what is wrong."""
    assert answer.returncode == 64
    assert "Traceback" not in answer.stderr
    return answer.stderr.splitlines()[-1]


def fail_one(service: Service, picture: Path) -> str:
    """Return the id of a job that has failed."""
    id = cli(service, "submit", str(picture), "-p", "qwertyuiop").stdout.strip()
    cli(service, "gpu", "0", "--burst")
    assert (service.spool.failed / id).is_dir()
    return id


def run_by_hand(spool: Spool, id: str) -> str:
    """Put a waiting job where another host's worker would hold it."""
    folder = spool.running / "elsewhere.gpu0"
    folder.mkdir(exist_ok=True)
    (spool.incoming / id).rename(folder / id)
    return id
