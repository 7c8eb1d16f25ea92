"""`i2ii top`, at a terminal and in a pipe, over real workers."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from i2ii_spool.spool.liveness import worker_name
from tests.support import FAKE_DRIVER
from tests.support.jobs import SubmitJob
from tests.support.service import Service, cli, wait_until

LEAVE_ALTERNATE_SCREEN = "\x1b[?1049l"


def test_it_shows_queue_workers_and_gpus_once_in_a_pipe(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work("0", engine="slow")
    first = submit_job(num_inference_steps=100, prompt="make it blue")
    second = submit_job(prompt="make it red")
    wait_until(lambda: service.workers()[0]["step"] > 0)
    shown = cli(service, "top").stdout
    assert "1 waiting, 1 running, 0 done, 0 failed" in shown
    [worker] = [line for line in shown.splitlines() if worker_name("gpu0") in line]
    assert re.search(rf"running +\d+/100 .* \d+ s .*- .*{first}", worker)
    [waiting] = [line for line in shown.splitlines() if second in line]
    assert re.match(r" +1 +\d+ s +", waiting)
    assert waiting.rstrip().endswith("make it red")


def test_it_shows_how_busy_a_gpu_is(service: Service) -> None:
    service.environment |= {
        "PYTHONPATH": str(FAKE_DRIVER),
        "FAKE_GPUS": json.dumps([{"minor": 0, "uuid": "GPU-aaaa0000-1111"}]),
    }
    service.work("0")
    assert re.search(r"ready .* 30/80 GiB +97 %", cli(service, "top").stdout)


def test_a_dead_worker_is_shown_as_dead(service: Service) -> None:
    service.work("0").kill()
    wait_until(lambda: re.search(rf"{worker_name('gpu0')} +dead ", cli(service, "top").stdout))


def test_without_a_worker_it_says_how_to_start_one(service: Service) -> None:
    assert (
        "no workers are running; start one with systemctl start i2ii-gpu@0, or i2ii gpu 0"
        in cli(service, "top").stdout
    )


def test_prompt_cannot_inject_markup_or_terminal_codes(
    service: Service, submit_job: SubmitJob
) -> None:
    submit_job(prompt="[red]\x1b[2J\x07evil[/red]")
    shown = cli(service, "top").stdout
    assert "[red] [2J evil[/red]" in shown
    assert "\x1b" not in shown


def test_it_is_refreshed_and_leaves_the_terminal_as_it_was(
    service: Service, submit_job: SubmitJob
) -> None:
    service.work("0", engine="slow")
    submit_job(num_inference_steps=100)
    own, other = pty.openpty()
    environment = {**service.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "i2ii_spool", "top"],
        env=environment,
        stdin=other,
        stdout=other,
        stderr=other,
    )
    service.processes.append(process)
    os.close(other)
    seen = read_until(own, lambda text: len(set(re.findall(r"(\d+)/100", text))) > 1)
    process.send_signal(signal.SIGINT)
    seen += read_until(own, lambda text: LEAVE_ALTERNATE_SCREEN in text)
    assert process.wait(10) == 0
    assert "Traceback" not in seen
    os.close(own)


def read_until(terminal: int, is_enough: Callable[[str], bool]) -> str:
    """Return what the terminal shows once that is enough."""
    text = ""
    deadline = time.monotonic() + 20
    while not is_enough(text):
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], text
        text += os.read(terminal, 65536).decode(errors="replace")
    return text
