"""The commands that watch the service: top, bench, doctor, settings."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i2ii_spool.cli.options import check_text, command, open_spool, restore_umask
from i2ii_spool.cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings


@command("host", "port")
@click.option(
    "-n", "--jobs", default=32, show_default=True, type=click.IntRange(1), help="jobs to submit"
)
@click.option(
    "-c",
    "--concurrency",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="jobs at a time",
)
@click.option(
    "-p", "--prompt", default="watercolour", show_default=True, help="the instruction of every job"
)
@click.option("--url", help="URL of the server  [default: from host and port]")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@click.option(
    "--report",
    "page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="also write the report as a page, one HTML file, with charts and pictures",
)
def bench(
    settings: "Settings",
    *,
    jobs: int,
    concurrency: int,
    prompt: str,
    url: str | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Load-test a running service and print a report.

    Ctrl-C cancels the jobs that run; the report has those that have ended.
    """
    from i2ii_spool.cli.progress import EX_INTERRUPTED
    from i2ii_spool.ops.loadtest import run
    from i2ii_spool.ops.loadtest.page import document, writing

    check_text("prompt", prompt)
    if page is not None:
        writing.check_path(page)
    report = run.run(
        url or f"http://{settings.host}:{settings.port}",
        settings.client_token,
        jobs=jobs,
        concurrency=concurrency,
        prompt=prompt,
        with_sheet=page is not None,
    )
    if as_json:
        echo_json(report.to_dict(), indent=2)
    else:
        echo(report.to_text())
    if page is not None:
        restore_umask()
        writing.write(page, document.page(report))
        echo(f"report: {page}", err=True)
    if report.stopped:
        sys.exit(EX_INTERRUPTED)
    sys.exit(0 if report.all_succeeded else 1)


@command("spool", "lease_seconds")
def top(settings: "Settings") -> None:
    """Watch the queue, the workers and the GPUs; Ctrl-C ends it.

    If standard output is a file or a pipe, print them once.
    """
    from i2ii_spool.ops import top
    from i2ii_spool.spool.maintenance import lease_seconds

    spool = open_spool(settings)
    top.run(spool, lease=lease_seconds(spool, settings))


@command(
    "spool",
    "host",
    "port",
    "tokens_file",
    "private_jobs",
    "no_auth",
    "min_free_mib",
    "engine",
    "model",
    "model_source",
    "lease_seconds",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def doctor(settings: "Settings", *, as_json: bool) -> None:
    """Check the installation and suggest fixes."""
    from i2ii_spool.ops.doctor import examine
    from i2ii_spool.ops.doctor.finding import Verdict

    colours = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "red"}
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            cure = "" if finding.cure is None else f"\n{'':<23}-> {finding.cure}"
            click.secho(f"{finding.verdict:<8} ", nl=False, fg=colours[finding.verdict])
            echo(f"{finding.check:<13} {finding.message}{cure}")
    healthy = all(finding.verdict is not Verdict.ERROR for finding in findings)
    if as_json:
        report = {"healthy": healthy, "findings": [finding.to_dict() for finding in findings]}
        echo_json(report, indent=2)
    sys.exit(0 if healthy else 1)


@command(processes=["server", "worker", "gc", "client", "webhooks"])
def settings(settings: "Settings") -> None:
    """Print every setting in force and where it comes from."""
    from i2ii_spool.settings import Settings, source

    flags = {
        name: value
        for name, value in click.get_current_context().params.items()
        if value is not None
    }
    width = max(map(len, Settings.model_fields))
    for name, value in settings:
        echo(f"{name:<{width}} {value!s:<24} {source(name, flags)}")
