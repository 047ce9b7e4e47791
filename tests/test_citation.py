"""CITATION.cff says which version it is of, and names the paper."""

from pathlib import Path

import yaml

import mae_ast_fairseq

FILE = Path(__file__).parents[1] / "CITATION.cff"


def test_the_version_is_the_packages_and_the_paper_is_named() -> None:
    found = yaml.safe_load(FILE.read_text())
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == mae_ast_fairseq.__version__
    paper = found["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Baade", "Peng", "Harwath"]
    assert "2203.16691" in paper["url"]
