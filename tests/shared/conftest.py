"""Two hosts on a shared folder, of the kind that `--shared` names: `local` is the control."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.support.gluster import GlusterFolder
from tests.support.hosts import HostService, LocalFolder, SharedFolder, why_no_names
from tests.support.juicefs import JuiceFolder
from tests.support.moosefs import MooseFolder
from tests.support.uml import NfsFolder

KINDS: dict[str, Callable[[Path], SharedFolder]] = {
    "local": LocalFolder,
    "nfs": NfsFolder,
    "juicefs": JuiceFolder,
    "glusterfs": GlusterFolder,
    "moosefs": MooseFolder,
}


@pytest.fixture(scope="session")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedFolder]:
    if reason := why_no_names():
        pytest.skip(f"a process cannot have another host's name here: {reason}")
    with KINDS[request.config.getoption("--shared")](tmp_path_factory.mktemp("shared")) as shared:
        yield shared


@pytest.fixture
def spools(shared: SharedFolder, tmp_path: Path) -> tuple[Spool, Spool]:
    """A new spool, as each of the hosts sees it."""
    one, two = (Spool(host.path / tmp_path.name) for host in shared.hosts)
    one.create()
    return one, two


@pytest.fixture
def services(
    shared: SharedFolder, spools: tuple[Spool, Spool], tmp_path: Path
) -> Iterator[tuple[HostService, HostService]]:
    """The processes of each host, which have that spool."""
    one, two = (
        HostService(host, spool, tmp_path / host.name)
        for host, spool in zip(shared.hosts, spools, strict=True)
    )
    yield one, two
    for service in (one, two):
        service.stop_all()
