"""Every log line about a job carries its event, its id and its worker as fields."""

import ast
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import i2ii_spool
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.host.logging import JournalHandler, JsonFormatter

PACKAGE = Path(i2ii_spool.__file__).parent


def calls_about_jobs() -> Iterator[tuple[str, ast.Call]]:
    """The calls of `log` whose message names a job, and where they are."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log")),
                    args=[ast.Constant(value=str(message)), *_],
                ) if "job %s" in message:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_log_lines_about_a_job_carry_their_event() -> None:
    calls = dict(calls_about_jobs())
    without = [
        place for place, call in calls.items() if "extra" not in {k.arg for k in call.keywords}
    ]
    assert len(calls) > 10
    assert without == []


def test_the_fields_of_an_event_go_to_the_journal() -> None:
    record = logging.makeLogRecord(
        {"msg": "claimed", **fields(JobEvent.CLAIMED, "20261123-101530-482-k7m2qf", "node7.gpu0")}
    )
    with closing(JournalHandler("i2ii-gpu0", "node7.gpu1")) as handler:
        sent = dict(handler._fields(record))
    assert sent["I2II_ACTION"] == "claimed"
    assert sent["I2II_JOB"] == "20261123-101530-482-k7m2qf"
    assert sent["I2II_WORKER"] == "node7.gpu0"


def test_a_line_in_json_has_the_fields_of_its_event() -> None:
    event = fields(JobEvent.CLAIMED, "20261123-101530-482-k7m2qf", "node7.gpu0")
    record = logging.makeLogRecord(
        {"msg": "job %s: 作业\n\udcff", "args": ("1",), "levelname": "INFO", **event}
    )
    line = JsonFormatter("http", None).format(record)
    assert "\n" not in line
    written = json.loads(line)
    assert datetime.fromisoformat(written.pop("time")).tzinfo is not None
    assert written == {
        **event,
        "level": "info",
        "process": "http",
        "message": "job 1: 作业\n\udcff",
    }


def test_a_traceback_in_json_stays_on_its_line() -> None:
    try:
        raise ValueError("a bug")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    written = json.loads(JsonFormatter("gpu0", "node7.gpu0").format(record))
    assert written["worker"] == "node7.gpu0"
    assert written["traceback"].endswith("ValueError: a bug")


def test_a_line_about_no_job_has_the_worker_of_its_process() -> None:
    record = logging.makeLogRecord({"msg": "ready"})
    with closing(JournalHandler("i2ii-gpu0", "node7.gpu1")) as handler:
        sent = dict(handler._fields(record))
    assert sent["I2II_WORKER"] == "node7.gpu1"
    assert "I2II_JOB" not in sent


def test_every_event_says_what_it_means() -> None:
    tree = ast.parse((PACKAGE / "events.py").read_text())
    [events] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    _docstring, *body = events.body
    meanings = [node for node in body if isinstance(node, ast.Expr)]
    assert len(meanings) == len(JobEvent)
