"""What docs/evidence.md shows is what benchmarks/results holds."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    return load_script("evidence")


def test_tables_are_those_of_the_results(evidence: ModuleType) -> None:
    texts = {path: evidence.tables(results) for path, results in evidence.read_results().items()}
    shown = {path: text for path, text in texts.items() if text is not None}
    assert shown
    for path, text in shown.items():
        assert (evidence.DOCS / f"{path.stem}.md").read_text() == text, "run benchmarks/evidence.py"


def test_results_name_no_folder_of_the_machine_that_made_them(evidence: ModuleType) -> None:
    named = [path.name for path in evidence.read_results() if ': "/' in path.read_text()]
    assert not named, "make the paths in them relative"


@pytest.mark.slow
def test_figures_are_drawn(
    evidence: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evidence, "DOCS", tmp_path)
    evidence.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    kept = {path.name for path in (ROOT / "docs" / "evidence").iterdir()}
    strips = {name for name in kept if name.startswith("viewpoint-") and name.endswith(".png")}
    assert strips and drawn == kept - strips  # strips are drawn where they are rendered


def test_the_page_links_to_files_that_exist() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
