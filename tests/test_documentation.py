"""Pages for people: their links lead somewhere, every page is found, and README stays one that is read to its end."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
FOLDERS = ("docs", "examples", "mae_ast_fairseq", "manifests", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

MAX_LINES, MAX_SECTION_LINES = 200, 45


def without_code(text: str) -> str:
    """Return a page's text without blocks and spans of code, in which nothing is a link or a heading."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    return re.sub(r"`[^`\n]*`", "`", "\n".join(lines))


def links(page: Path) -> list[str]:
    """Return where a page links to, but for other hosts."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the hosts of code make them."""
    code = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", code, flags=re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def target(page: Path, link: str) -> Path:
    """Return the file or folder that a link of a page leads to, whether it is there or not."""
    path = link.partition("#")[0]
    return (page.parent / path).resolve() if path else page


def faults(page: Path) -> list[str]:
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        leads_to = target(page, path)
        if not leads_to.exists():
            found += [link]
        elif anchor and anchor not in anchors(leads_to.read_text(encoding="utf-8")):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_in_it(page: Path) -> None:
    assert faults(page) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# A page, by `me`\n[a](#a-page-by-me) [b](#another) [c](gone.md) [`d`](page.md#a-page-by-me) `[e](e.md)`\n"
    page.write_text(f"{text}\n    [f](f.md)\n")
    assert faults(page) == ["#another", "gone.md"]


def test_every_page_of_docs_is_listed_in_its_table_and_says_so_once() -> None:
    rows = [line for line in (DOCS / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    listed = [target(DOCS / "README.md", re.search(r"\]\(([^)]+)\)", row)[1]) for row in rows]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {*DOCS.rglob("*.md")} - {DOCS / "README.md"}
    assert DOCS / "README.md" in {target(README, link) for link in links(README)}


def test_the_pages_that_code_and_recipes_name_are_there() -> None:
    named = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml") and file != Path(__file__):
                named |= set(re.findall(r"\b(?:docs|manifests)/[\w/]+\.md", file.read_text(encoding="utf-8")))
    assert "docs/fields.md" in named
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_readme_begins_with_the_two_commands_and_has_no_section_longer_than_a_page() -> None:
    text = README.read_text(encoding="utf-8")
    lines = text.splitlines()
    commands = [line.strip() for line in lines if line.startswith("    ")]
    assert [command.split("#")[0].strip() for command in commands[:2]] == ["make demo", "make test"]
    assert len(lines) < MAX_LINES
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert [part.splitlines()[0] for part in sections if len(part.splitlines()) > MAX_SECTION_LINES] == []
