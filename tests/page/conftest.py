"""The page through the real service: classic engine, two workers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support import browser
from tests.support.person import Person, at
from tests.support.service import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and browser.why_not() is not None:
            item.add_marker(pytest.mark.skip(reason=str(browser.why_not())))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop_all()


@pytest.fixture
def url(service: Service) -> str:
    """Of a server with two workers."""
    for unit in ("0", "1"):
        service.work(unit)
    return service.serve()


@pytest.fixture
async def person(url: str) -> AsyncIterator[Person]:
    async with at(url) as person:
        yield person


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 320 x 200 whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (320, 200), "red")
    picture.paste("blue", (160, 0, 320, 200))
    picture.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def other_photo(tmp_path: Path) -> Path:
    """A picture of 200 x 200, green."""
    Image.new("RGB", (200, 200), "green").save(tmp_path / "other.png")
    return tmp_path / "other.png"
