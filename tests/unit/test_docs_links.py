"""The documentation holds together: links lead somewhere, named files exist, README stays short."""

import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from i2ii_spool.jobs.folder import JobFolder

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README_LINES, README_WORDS = 120, 900

LINK = re.compile(r"\]\(([^)\s]+)\)")
SOURCE_FILE = re.compile(r"`([a-z_]+(?:/[a-z_]+)*\.py)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip()).lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    rooms = [ROOT, ROOT / "i2ii_spool", *(ROOT / "i2ii_spool").glob("*/")]
    named = SOURCE_FILE.findall(prose(page))
    assert [name for name in named if not any((room / name).exists() for room in rooms)] == []


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_readme_is_short_and_holds_the_test_command(readme: str) -> None:
    text = (ROOT / readme).read_text("utf-8")

    assert len(text.splitlines()) <= README_LINES
    assert len(text.split()) <= README_WORDS
    assert re.search(r"<!-- tests -->\n```sh\npython3 .*pytest.*\n```", text)


def test_both_readmes_link_to_the_same_pages() -> None:
    linked = [
        set(LINK.findall(prose(ROOT / name))) - {"README.md", "README.zh.md"}
        for name in ("README.md", "README.zh.md")
    ]
    assert linked[0] == linked[1]


def test_the_index_names_every_page() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall(prose(ROOT / "docs/index.md"))}
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md")}
    assert {page for page in pages if not page.startswith("adr/")} - {"index.md"} <= linked


def test_the_protocol_names_every_file_of_a_job_folder() -> None:
    folder = JobFolder(Path("<id>"))
    names = [
        getattr(folder, name).name
        for name, _ in inspect.getmembers(JobFolder, lambda each: isinstance(each, property))
        if isinstance(getattr(folder, name), Path)
    ]
    text = (ROOT / "docs/protocol.md").read_text("utf-8")
    assert len(names) > 5
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("drawing", sorted(ROOT.glob("docs/**/*.svg")), ids=name_of)
def test_every_drawing_is_well_formed_and_described(drawing: Path) -> None:
    root = ElementTree.parse(drawing).getroot()
    tags = {child.tag.rpartition("}")[2] for child in root}
    assert {"title", "desc", "style"} <= tags
    assert "prefers-color-scheme: dark" in drawing.read_text("utf-8")
