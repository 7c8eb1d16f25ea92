"""The pages that docs/generate.py writes."""

import runpy
from pathlib import Path

import pytest

GENERATE = runpy.run_path(str(Path(__file__).parents[2] / "docs/generate.py"))


@pytest.mark.parametrize("page", [*GENERATE["PAGES"], *GENERATE["TABLES"]])
def test_a_generated_page_is_current(page: str) -> None:
    assert page not in GENERATE["outdated"](), "run `python docs/generate.py`"
