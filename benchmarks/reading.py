"""How far a reader goes through the code to follow one request, and how the code is cut.

    python -m benchmarks.reading [--tree DIR] [--json]

It prints how many functions, calls and files of `i2ii_spool` one `POST /edit` of a 130 KB JPEG
passes, how often the file changes from one call to the next, what share of the functions is
private and used once, and how long functions, files and lines are.

`--tree DIR` measures another checkout, with this script. It takes some ten seconds.
"""

import argparse
import ast
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType

from aiohttp.test_utils import TestServer

import i2ii_spool
from benchmarks.common import Figure, Options, new_spool, report
from benchmarks.http import form, send_at_once
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import percentile
from i2ii_spool.server.app import create_app
from i2ii_spool.settings import Settings

ROOT = f"{Path(i2ii_spool.__file__).parent}/"
THREADS = ("MainThread", "disk")
"""What the threads are called that serve requests, and not the watcher's or the maintenance's."""
REQUESTS = 5
CACHE_SECONDS = 0.6
"""The server reads an idle spool anew after so long, so that each request passes these reads."""
SHORT = 4
COLUMNS = 100

Function = ast.FunctionDef | ast.AsyncFunctionDef
Call = tuple[str, str]
"""A file, relative to `i2ii_spool/`, and the qualified name of a function in it."""


# --- one request ----------------------------------------------------------------------------------


def journey(options: Options) -> Iterator[Figure]:
    """How far one submit goes through the code."""
    calls = asyncio.run(calls_of_an_edit(options.folder))
    yield Figure("POST /edit, distinct functions", len(set(calls)), "", at_most=50)
    yield Figure("POST /edit, calls and continuations", len(calls), "")
    yield Figure("POST /edit, changes of file", changes_of_file(calls), "", at_most=60)
    yield Figure("POST /edit, files", len({file for file, _ in calls}), "")


async def calls_of_an_edit(folder: Path) -> list[Call]:
    """Return the calls of one `POST /edit`, in order, across the threads of a server.

    A coroutine that continues counts as a call; lambdas and comprehensions do not count. The first
    request warms up. Of the others the first is returned that has the commonest number of changes
    of file: on a busy machine some read the spool once more or once less.
    """
    request = form(photograph(1000, 740, seed=1))
    walks: list[list[Call]] = []
    calls: list[Call] = []

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(ROOT)
            and not code.co_name.startswith("<")
            and threading.current_thread().name.startswith(THREADS)
        ):
            calls.append((code.co_filename.removeprefix(ROOT), code.co_qualname))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        async with TestServer(create_app(Settings(spool=new_spool(folder).root))) as server:
            assert server.port is not None
            for _ in range(1 + REQUESTS):
                await asyncio.sleep(CACHE_SECONDS)
                calls.clear()
                await asyncio.to_thread(send_at_once, server.port, request, 1)
                walks.append(calls.copy())
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    changes = [changes_of_file(walk) for walk in walks]
    return walks[changes.index(statistics.mode(changes[1:]), 1)]


def changes_of_file(calls: list[Call]) -> int:
    """How many calls are to another file than the call before."""
    return sum(before[0] != after[0] for before, after in pairwise(calls))


# --- the whole tree -------------------------------------------------------------------------------


def functions(_options: Options) -> Iterator[Figure]:
    """How the code is cut into functions; methods such as `__init__` are left out."""
    trees = parse_all()
    all_of_them = [each for tree in trees.values() for each in functions_in(tree)]
    once = used_once(trees)
    short = [function for _, function in once if _body_lines(function) <= SHORT]
    lengths = sorted(lines_of(function) for function in all_of_them)
    share = 100 / len(all_of_them)
    yield Figure("functions", len(all_of_them), "")
    yield Figure("private functions used once", share * len(once), "%", at_most=10)
    yield Figure(f"of these with bodies of at most {SHORT} lines", share * len(short), "%")
    yield Figure("lines of a function, median", statistics.median(lengths), "")
    yield Figure("lines of a function, p90", percentile(lengths, 0.9), "", at_most=30)
    yield Figure("lines of a function, most", lengths[-1], "", at_most=60)


def parse_all() -> dict[Path, ast.Module]:
    """The syntax trees of all files of `i2ii_spool`."""
    return {path: ast.parse(path.read_text()) for path in sorted(Path(ROOT).rglob("*.py"))}


def functions_in(tree: ast.Module) -> Iterator[Function]:
    """All functions and methods but those of the language's own protocols, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and not node.name.startswith("__"):
            yield node


def used_once(trees: dict[Path, ast.Module]) -> list[tuple[Path, Function]]:
    """Private functions whose names occur once in all of the code, beside the definition."""
    names: Counter[str] = Counter()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                names[node.id] += 1
            elif isinstance(node, ast.Attribute):
                names[node.attr] += 1
    return [
        (path, each)
        for path, tree in trees.items()
        for each in functions_in(tree)
        if each.name.startswith("_") and names[each.name] == 1
    ]


def lines_of(function: Function) -> int:
    """From `def` to the last line."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _body_lines(function: Function) -> int:
    """Without signature and docstring."""
    first = function.body[ast.get_docstring(function) is not None :] or function.body
    return lines_of(function) - (first[0].lineno - function.lineno)


def files(_options: Options) -> Iterator[Figure]:
    """How long files and lines are."""
    texts = [path.read_text().splitlines() for path in Path(ROOT).rglob("*.py")]
    lengths = [len(lines) for lines in texts]
    too_wide = sum(len(line) > COLUMNS for lines in texts for line in lines)
    yield Figure("files", len(texts), "")
    yield Figure("lines of a file, median", statistics.median(lengths), "")
    yield Figure("lines of a file, most", max(lengths), "")
    yield Figure(f"lines over {COLUMNS} columns", 100 * too_wide / sum(lengths), "%", at_most=0)


def main() -> int:
    """Measure this tree or, in a process of its own, another; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, metavar="DIR", help="another checkout to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    if given.tree is not None:
        # -P: the folder of this file must not be searched, where http.py is not Python's `http`.
        command = [sys.executable, "-P", __file__, *(["--json"] if given.json else [])]
        environment = {**os.environ, "PYTHONPATH": str(given.tree.absolute())}
        return subprocess.run(command, env=environment, check=False).returncode
    options = Options(Path(tempfile.gettempdir()), quick=False, as_json=given.json, large=False)
    report(options, journey, functions, files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
