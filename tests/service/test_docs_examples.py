"""The examples of docs/openai.md, as a reader copies them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support import npm
from tests.support.pictures import make_picture
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/openai.md").read_text()
pytestmark = pytest.mark.xdist_group("examples")  # one service for the file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader has a photo."""
    make_picture(tmp_path / "photo.jpg")
    return tmp_path


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(live: Service, folder: Path, *command: str, text: str) -> str:
    """Run an example with the address of the service in place of its own."""
    assert "localhost:8000" in text
    own = text.replace("localhost:8000", str(live.url).removeprefix("http://"))
    ran = subprocess.run(
        [*command, own], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_python(live: Service, folder: Path) -> None:
    [example] = examples("python")
    run(live, folder, sys.executable, "-W", "ignore", "-c", text=example)
    with Image.open(folder / "result.png") as result:
        assert result.size == (64, 48)


@pytest.mark.skipif(npm.why_not() is not None, reason=str(npm.why_not()))
def test_javascript(live: Service, folder: Path, pytestconfig: pytest.Config) -> None:
    [example] = examples("js")
    packages = npm.installed(pytestconfig.cache.mkdir("npm"))  # type: ignore[union-attr]
    (folder / "node_modules").symlink_to(packages / "node_modules")
    run(live, folder, "node", "--input-type=module", "-e", text=example)
    with Image.open(folder / "result.png") as result:
        assert result.size == (64, 48)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_shell(live: Service, folder: Path) -> None:
    form, body = examples("sh")
    [picture] = json.loads(run(live, folder, "bash", "-ec", text=form))["data"]
    assert picture["url"].startswith(str(live.url))
    run(live, folder, "bash", "-ec", text=body)
    assert json.loads((folder / "answer.json").read_text())["data"][0]["b64_json"]
