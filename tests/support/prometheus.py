"""A real Prometheus, and its `promtool`.

with running(folder, rules) as prometheus:
    prometheus.scrape("i2ii-1", url)            # under this name of a job
    prometheus.query('up{job="i2ii-1"}')
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from tests.support.service import get_json, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
CONFIG = """\
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs:
  - job_name: unnamed
    file_sd_configs: [{files: [targets.json], refresh_interval: 500ms}]
"""


def why_not() -> str | None:
    """Why there can be no Prometheus here, or None."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    return f"{' and '.join(missing)} is not there; install prometheus" if missing else None


def promtool(*arguments: str, text: str = "") -> str:
    """Run `promtool`, which is to succeed; return all that it prints."""
    ran = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


class Prometheus:
    """A running Prometheus that scrapes twice a second."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._targets: list[dict[str, Any]] = []

    def scrape(self, job: str, *urls: str) -> None:
        """Scrape these servers, too, and wait until that has been done."""
        targets = [urlsplit(url).netloc for url in urls]
        self._targets.append({"targets": targets, "labels": {"job": job}})
        unfinished = self._folder / "targets.tmp"
        unfinished.write_text(json.dumps(self._targets))
        unfinished.rename(self._folder / "targets.json")
        wait_until(lambda: len(self.query(f'up{{job="{job}"}}')) == len(urls))

    def query(self, expression: str) -> list[Any]:
        """Return the samples of an expression now."""
        answer = get_json(f"{self._url}/api/v1/query?query={quote(expression)}")
        assert answer["status"] == "success", answer
        samples: list[Any] = answer["data"]["result"]
        return samples

    def firing(self, job: str) -> set[str]:
        """Return the names of the alerts of a job that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in get_json(f"{self._url}/api/v1/alerts")["data"]["alerts"]
            if alert["labels"]["job"] == job and alert["state"] == "firing"
        }


@contextmanager
def running(folder: Path, rules: str) -> Iterator[Prometheus]:
    """Yield a Prometheus with these rules, whose data lie in the folder."""
    (folder / "prometheus.yml").write_text(CONFIG)
    (folder / "rules.yml").write_text(rules)
    (folder / "targets.json").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    options = {
        "config.file": "prometheus.yml",
        "storage.tsdb.path": "data",  # Debian's default is a folder of the system
        "web.listen-address": address,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _is_ready(f"http://{address}"))
        yield Prometheus(folder, f"http://{address}")
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
