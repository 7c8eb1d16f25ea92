"""The commands that run daemons: the whole service, the server, one worker."""

import faulthandler
import functools
import sys
from typing import TYPE_CHECKING

import click

from i2ii_spool.cli.options import command

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings


@command(processes=["server", "worker", "webhooks"])
@click.option("--open", "opens_page", is_flag=True, help="open the page in a browser")
def up(settings: "Settings", *, opens_page: bool) -> None:
    """Run the whole service: server, workers, webhooks.

    It starts one worker per visible GPU, or one classic worker on a machine without a GPU.
    """
    from i2ii_spool.ops import supervisor

    sys.exit(supervisor.run(settings, opens_page=opens_page))


@command(processes=["server"])
def serve(settings: "Settings") -> None:
    """Run the HTTP server."""
    from i2ii_spool.host.logging import configure_logging
    from i2ii_spool.server.daemon import Server
    from i2ii_spool.settings import load

    configure_logging("http", settings.log_format)
    faulthandler.enable()
    reload = functools.partial(load, dict(click.get_current_context().params))
    Server(settings, reload).run()


@command(processes=["webhooks"])
def webhooks(settings: "Settings") -> None:
    """Run the deliverer of webhooks.

    It ends at once where I2II_WEBHOOK_SECRETS is not set.
    """
    from i2ii_spool.host.logging import configure_logging
    from i2ii_spool.webhooks.daemon import Deliverer

    configure_logging("webhooks", settings.log_format)
    faulthandler.enable()
    Deliverer(settings).run()


@command(processes=["worker"])
@click.argument("gpu", metavar="N")
@click.option("--burst", is_flag=True, help="exit when no job waits")
def gpu(settings: "Settings", gpu: str, *, burst: bool) -> None:
    """Run the worker of GPU N.

    N is an index within CUDA_VISIBLE_DEVICES, a `GPU-<uuid>` or a `MIG-<uuid>`.
    """
    from i2ii_spool.engines import registry
    from i2ii_spool.host import gpus
    from i2ii_spool.host.logging import configure_logging
    from i2ii_spool.spool.liveness import worker_name
    from i2ii_spool.worker.daemon import Worker

    chosen = gpus.resolve(gpu)
    configure_logging(chosen.unit, settings.log_format, worker_name(chosen.unit))
    faulthandler.enable()  # prints the stacks when systemd's watchdog aborts a hung worker
    device = gpus.set_visible(chosen, optional=settings.engine == "classic")
    engine = registry.create(settings, has_gpu=device is not None)
    Worker(settings, engine, chosen, device, burst=burst).run()
