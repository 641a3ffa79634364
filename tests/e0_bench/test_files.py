"""Results with a row a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e0_bench.files import json_lines, write_json

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_layout_changes_no_data(data: object) -> None:
    assert json.loads(json_lines(data)) == data


def test_a_row_stands_on_a_line_of_its_own() -> None:
    rows = [{"k": 1, "values": [1, [2, 3]]}, {"k": 2, "values": []}]
    text = json_lines({"settings": {"steps": 3, "names": ["a", "b"]}, "rows": rows})
    assert text.splitlines() == [
        "{",
        ' "settings": {',
        '  "steps": 3,',
        '  "names": ["a", "b"]',
        " },",
        ' "rows": [',
        '  {"k": 1, "values": [1, [2, 3]]},',
        '  {"k": 2, "values": []}',
        " ]",
        "}",
    ]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_kept_results_are_laid_out_so(path: Path) -> None:
    text = path.read_text()
    assert text == json_lines(json.loads(text)) + "\n"


def test_paths_become_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"path": str(tmp_path)}
