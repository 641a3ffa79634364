"""The token lab's results file: `settings`, and `rows`, one for each run and number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e0_bench.files import read_json, write_json
from e0_bench.token_lab.settings import LabSettings, Run

Row = dict[str, Any]


class OtherSettingsError(ValueError):
    """The results file was made with other settings."""


class ResultsFile:
    """The rows measured so far; `add` writes the file anew, whole or not at all.

    Raises OtherSettingsError if the file holds rows of other settings, of a variant that has the
    same name but other values, or of other decodings than a run's."""

    def __init__(self, path: Path, settings: LabSettings) -> None:
        self.path = path
        self.settings = settings.as_json()
        self.rows: list[Row] = []
        if path.exists():
            stored = read_json(path)
            if stored["settings"] != self.settings:
                raise OtherSettingsError(
                    f"{path} was made with {_differences(stored['settings'], self.settings)}: "
                    "give these, or another file"
                )
            self.rows = stored["rows"]

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that the file does not hold yet."""
        for run in runs:
            for row in self.of(run):
                if row["overrides"] != run.overrides:
                    raise OtherSettingsError(
                        f"{self.path} holds {run} with {row['overrides']}, not "
                        f"{dict(run.overrides)}: give the variant another name, or another file"
                    )
            self._require_ways(run)
        return [run for run in runs if not self.of(run)]

    def _require_ways(self, run: Run) -> None:
        """A finished run cannot be decoded once more: its weights are not kept."""
        rows = self.of(run)
        if rows and not (
            all(any(way.made(row) for way in run.ways) for row in rows)
            and all(any(way.made(row) for row in rows) for way in run.ways)
        ):
            raise OtherSettingsError(
                f"{self.path} holds {run}, measured under other decodings: give another file"
            )

    def of(self, run: Run) -> list[Row]:
        """The rows of a run, empty if it is not finished."""
        key = run.variant, run.bins, run.seed
        return [row for row in self.rows if (row["variant"], row["bins"], row["seed"]) == key]

    def add(self, rows: Sequence[Row]) -> None:
        self.rows.extend(rows)
        write_json(self.path, {"settings": self.settings, "rows": self.rows})


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    names = [name for name in {**own, **stored} if stored.get(name) != own.get(name)]
    return ", ".join(f"{name} {stored.get(name)} instead of {own.get(name)}" for name in names)
