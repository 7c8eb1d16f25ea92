"""The commands for jobs: submit, list, show, cancel, retry, delete."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i2ii_spool.cli.options import check_text, command, for_each, open_spool, restore_umask
from i2ii_spool.cli.terminal import echo, echo_json
from i2ii_spool.errors import InvalidRequest

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings


@command(processes=["client"], takes_request=True)
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="picture of the first image's size whose transparent pixels alone are edited",
)
@click.option("--url", help="submit to the server at this URL, not straight into the spool")
@click.option("--wait", is_flag=True, help="wait until the job has ended, then write the picture")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="file of the picture; needs --wait  [default ID.png]",
)
def submit(
    settings: "Settings",
    images: tuple[Path, ...],
    *,
    mask: Path | None,
    url: str | None,
    wait: bool,
    output: Path | None,
    **fields: str | None,
) -> None:
    """Submit an edit of one or more IMAGES and print the id of the job."""
    from i2ii_spool.cli.progress import check_output, wait_and_write
    from i2ii_spool.client import Client, SpoolClient
    from i2ii_spool.jobs.request import EditRequest, parse
    from i2ii_spool.spool.webhook import WebhookPolicy

    if output is not None and not wait:
        raise InvalidRequest("--output needs --wait: the picture exists once the job has ended")
    if wait:
        check_output(output)
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        check_text(name, str(value))
    request = parse(EditRequest, given)
    with ExitStack() as stack:
        client: Client | SpoolClient
        if url is None:
            policy = WebhookPolicy.of(settings)
            client = SpoolClient(open_spool(settings), settings.max_pixels, policy)
        else:
            client = stack.enter_context(Client(url, settings.client_token))
        id = client.submit(images, request, mask=mask)
        if wait:
            restore_umask()
            wait_and_write(client, id, output)
        else:
            echo(id)


@command("spool")
@click.argument("state", required=False)
@click.option(
    "-n",
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="list at most this many",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per line")
def ls(settings: "Settings", state: str | None, *, limit: int, as_json: bool) -> None:
    """List jobs, newest first.

    STATE is incoming, running, done or failed; without it, jobs of every state are listed.
    """
    from i2ii_spool.spool.layout import parse_state
    from i2ii_spool.spool.lookup import list_jobs, queued_ids
    from i2ii_spool.spool.status import status_of

    spool = open_spool(settings)
    queue = queued_ids(spool)
    for location in list_jobs(spool, parse_state(state), limit=limit):
        status = status_of(spool, location, queue=queue)
        if status is not None:
            if as_json:
                echo_json(status.to_dict())
            else:
                echo(status.to_line())


@command("spool")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def show(settings: "Settings", id: str, *, as_json: bool) -> None:
    """Show one job."""
    from i2ii_spool.spool.status import read_status

    shown = read_status(open_spool(settings), id).to_dict()
    if as_json:
        echo_json(shown, indent=2)
        return
    for name, value in shown.items():
        indented = str(value).replace("\n", f"\n{'':<19}")
        echo(f"{name + ':':<18} {indented}")


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def cancel(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Cancel jobs that wait or run."""
    from i2ii_spool.spool import actions
    from i2ii_spool.spool.layout import State

    spool = open_spool(settings)

    def cancel_job(id: str) -> str:
        state = actions.cancel(spool, id)
        return "stops at its next step" if state is State.RUNNING else "cancelled"

    for_each(ids, cancel_job)


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def retry(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Return failed jobs to the queue."""
    from i2ii_spool.spool import actions

    spool = open_spool(settings)

    def retry_job(id: str) -> str:
        actions.retry(spool, id)
        return "queued"

    for_each(ids, retry_job)


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def rm(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Delete ended jobs and their pictures."""
    from i2ii_spool.spool import actions

    spool = open_spool(settings)

    def delete_job(id: str) -> str:
        actions.delete_job(spool, id)
        return "deleted"

    for_each(ids, delete_job)


@command(processes=["gc"])
def gc(settings: "Settings") -> None:
    """Delete ended jobs by age, by number or to free disk space."""
    from i2ii_spool.spool.retention import RetentionPolicy, prune

    days, free = settings.keep_days, settings.keep_free_mib
    policy = RetentionPolicy(
        age=None if days is None else days * 86400,
        jobs=settings.keep_jobs,
        free=None if free is None else round(free * 2**20),
    )
    removed = prune(open_spool(settings), policy)
    echo(f"{len(removed)} jobs deleted")
    if policy == RetentionPolicy():
        echo(
            "no limit is set; use --keep-days, --keep-jobs or --keep-free-mib",
            err=True,
        )
