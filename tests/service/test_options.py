"""`GET /options`: who asks, the limits, the fields, and what the engines offer."""

from pathlib import Path
from typing import Any

import pytest

from i2ii_spool import __version__
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS
from i2ii_spool.engines.classic.language import understand
from i2ii_spool.jobs.offers import Instruction, Offers
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.auth import tokens
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerState
from tests.support.app import Connect, HandWorker, get
from tests.support.service import Service, get_json

SEPIA = Instruction(en="sepia", zh="棕褐色")


async def test_the_limits_are_those_of_the_settings(connect: Connect) -> None:
    client = await connect(max_upload_mib=7, max_megapixels=3, max_queue=5, client_max_uploads=2)
    answer = await get(client, "/options")
    assert answer["version"] == __version__
    assert answer["limits"] == {
        "max_bytes": 7 * 2**20,
        "max_pixels": 3_000_000,
        "max_images": 10,
        "max_queue": 5,
        "client_max_uploads": 2,
    }
    assert answer["engines"] == []


async def test_the_fields_are_those_of_an_edit(connect: Connect) -> None:
    fields = (await get(await connect(), "/options"))["fields"]
    assert fields.keys() == EditRequest.model_fields.keys()
    assert (fields["n"]["minimum"], fields["n"]["maximum"], fields["n"]["default"]) == (1, 4, 1)
    assert fields["true_cfg_scale"]["type"] == "number"
    assert (fields["true_cfg_scale"]["minimum"], fields["true_cfg_scale"]["maximum"]) == (1, 10)
    assert fields["prompt"]["maxLength"] == 4000


async def test_the_caller_is_named(connect: Connect, tmp_path: Path) -> None:
    alone = (await get(await connect(), "/options"))["caller"]
    assert alone == {"name": "127.0.0.1", "is_operator": True, "has_token": False}
    file = tmp_path / "tokens"
    made = {name: tokens.add(file, name, is_operator=name == "ops") for name in ("alice", "ops")}
    for name, token in made.items():
        client = await connect(tokens_file=file)
        answer = await client.get("/options", headers={"Authorization": f"Bearer {token}"})
        caller = (await answer.json())["caller"]
        assert caller == {"name": name, "is_operator": name == "ops", "has_token": True}


async def test_the_engines_are_those_of_live_workers(connect: Connect, worker: HandWorker) -> None:
    worker.show(WorkerState.READY, offers=Offers(instructions=(SEPIA,), presets=("a", "b")))
    shown = {"instructions": [{"en": "sepia", "zh": "棕褐色"}], "presets": ["a", "b"]}
    client = await connect()
    assert (await get(client, "/options"))["engines"] == [
        {"engine": "hand", "model": "none", **shown}
    ]
    workers = (await get(client, "/system/status"))["workers"]
    assert "offers" not in workers[0]
    worker.die()
    assert (await get(await connect(), "/options"))["engines"] == []


@pytest.mark.parametrize("offers", [None, {"instructions": 3}, [], {"presets": [{}]}])
async def test_a_worker_of_another_version_offers_nothing(
    connect: Connect, worker: HandWorker, spool: Spool, offers: Any
) -> None:
    worker.show(WorkerState.READY)
    path = spool.workers / f"{worker.name}.json"
    status = path.read_text().removesuffix("\n}\n")
    if offers is not None:
        status += ',\n  "offers": ' + str(offers).replace("'", '"')
    path.write_text(status + "\n}\n")
    [engine] = (await get(await connect(), "/options"))["engines"]
    assert (engine["instructions"], engine["presets"]) == ([], [])


def test_every_instruction_of_classic_is_understood_as_it_is_named() -> None:
    for instruction in INSTRUCTIONS:
        for text in (instruction.named.en, instruction.named.zh):
            assert [each.instruction for each in understand(text)] == [instruction], text


def test_a_classic_worker_offers_its_instructions(live: Service) -> None:
    [engine] = get_json(f"{live.url}/options")["engines"]
    assert engine["engine"] == "classic"
    assert {"en": "watercolour", "zh": "水彩"} in engine["instructions"]
    assert len(engine["instructions"]) == len(INSTRUCTIONS)
    [status] = live.workers()
    assert status["offers"]["instructions"] == engine["instructions"]
    assert len((live.spool.workers / f"{status['worker']}.json").read_text().splitlines()) < 30
