"""Reads a dataset, runs every check, and puts into words what was found."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from e0_bench.doctor.checks_actions import check_convention, check_gripper
from e0_bench.doctor.checks_episodes import (
    check_chunk,
    check_idle,
    check_lengths,
    check_metadata,
    check_timestamps,
)
from e0_bench.doctor.checks_features import (
    bytes_in_memory,
    check_features,
    check_memory,
    check_statistics,
    policy_config,
)
from e0_bench.doctor.checks_instructions import check_instructions
from e0_bench.doctor.checks_pictures import (
    check_black,
    check_cameras_agree,
    check_decoding,
    check_frozen,
    check_turned,
)
from e0_bench.doctor.checks_rotations import check_angles, check_quaternions
from e0_bench.doctor.checks_tokens import TokenError, check_tokens, measure_tokens, widest_gap
from e0_bench.doctor.checks_values import (
    check_constant,
    check_episodes_alike,
    check_finite,
    check_outliers,
)
from e0_bench.doctor.findings import ERROR, LEVELS, Finding, counted, number, ordered
from e0_bench.doctor.pictures import Sample, sample_pictures
from e0_bench.doctor.reading import Column, Recording, read_recording
from lerobot_policy_e0 import E0Config

MOVING = 0.2  # of a dimension's range, within an episode


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found, errors first, and what it was found in. tokens: None where no codebook could
    be fitted."""

    recording: Recording
    config: E0Config
    findings: list[Finding]
    samples: list[Sample]
    tokens: TokenError | None

    @property
    def healthy(self) -> bool:
        """No error; there may be warnings."""
        return all(finding.level != ERROR for finding in self.findings)


def diagnose(root: Path, config: E0Config, repo_id: str | None = None) -> Diagnosis:
    """Run every check. Raises DatasetError where there is no LeRobotDataset v3."""
    recording = read_recording(root, repo_id)
    config, findings = policy_config(recording, config)
    findings += check_metadata(recording)
    findings += check_features(recording, config)
    findings += check_statistics(recording, config)
    findings += _check_time(recording, config)
    findings += check_instructions(
        recording.tasks,
        _tasks_of_episodes(recording),
        config.maximum_instruction_bytes,
        config.use_instruction,
    )
    used = [
        recording.columns[n] for n in (ACTION, *config.vector_features) if n in recording.columns
    ]
    for column in used:
        findings += _check_values(column)
    action = recording.columns.get(ACTION)
    tokens = None
    if action is not None:
        used = [_filled(column) for column in used]
        findings += _check_action(used[0], _state(used), config)
        findings += check_idle(used, recording.fps)
        tokens = _tokens(used[0], config)
    samples = sample_pictures(recording)
    findings += _check_pictures(samples, used, len(recording.episodes))
    findings += check_memory(bytes_in_memory(recording))
    return Diagnosis(recording, config, ordered(findings), samples, tokens)


def _check_time(recording: Recording, config: E0Config) -> list[Finding]:
    videos = any(recording.features[name]["dtype"] == "video" for name in recording.cameras)
    lengths, fps, horizon = recording.lengths, recording.fps, config.horizon
    assert horizon is not None  # filled in by `policy_config`
    return [
        *check_timestamps(recording.timestamps, recording.starts, recording.episodes, fps, videos),
        *check_lengths(lengths, recording.episodes, horizon),
        *check_chunk(lengths, fps, horizon),
    ]


def _tasks_of_episodes(recording: Recording) -> dict[int, set[int]]:
    parts = np.split(recording.task_index, recording.starts[1:])
    return {
        int(episode): {int(task) for task in np.unique(part)}
        for episode, part in zip(recording.episodes, parts, strict=True)
    }


def _check_values(column: Column) -> list[Finding]:
    findings = check_finite(column) + check_constant(column) + check_outliers(column)
    column = _filled(column)
    findings += check_episodes_alike(column) + check_quaternions(column)
    return findings + check_angles(column)


def _filled(column: Column) -> Column:
    """The column with medians in place of NaN and infinity, so that these hide nothing else."""
    finite = np.isfinite(column.values)
    if finite.all():
        return column
    known = np.where(finite, column.values, np.nan)
    known[:, ~finite.any(0)] = 0.0
    return replace(column, values=np.where(finite, column.values, np.nanmedian(known, axis=0)))


def _state(used: list[Column]) -> Column | None:
    """Proprioception, or the first other vector that the policy sees."""
    vectors = [column for column in used if column.feature != ACTION]
    return next((c for c in vectors if c.feature == OBS_STATE), next(iter(vectors), None))


def _check_action(action: Column, state: Column | None, config: E0Config) -> list[Finding]:
    findings = check_gripper(action, state)
    if state is not None:
        findings += check_convention(action, state)
    return findings + check_tokens(action, config.codebook, config.vocabulary_size)


def _tokens(action: Column, config: E0Config) -> TokenError | None:
    try:
        return measure_tokens(action, config.codebook, config.vocabulary_size)
    except ValueError:
        return None  # said by the checks


def _check_pictures(samples: list[Sample], used: list[Column], total: int) -> list[Finding]:
    moving = _moving(used)
    findings = []
    for sample in samples:
        findings += check_decoding(sample, total) + check_black(sample, total)
        findings += check_frozen(sample, moving, total) + check_turned(sample, total)
    return findings + check_cameras_agree(samples)


def _moving(used: list[Column]) -> set[int]:
    """Episodes in which a dimension covers a fair part of its range."""
    moving = set()
    for column in used:
        reach = np.ptp(np.nan_to_num(column.values), axis=0)
        for episode, values in column.split():
            within = np.ptp(np.nan_to_num(values), axis=0)
            if (within[reach > 0] > MOVING * reach[reach > 0]).any():
                moving.add(episode)
    return moving


def told(diagnosis: Diagnosis) -> str:
    """The findings as text, a paragraph each, errors first."""
    paragraphs = []
    for finding in diagnosis.findings:
        head = f"{finding.level.upper():8}{finding.place}: {finding.told}"
        why = f"{finding.why[0].upper()}{finding.why[1:]}."
        lines = [_wrapped(head, ""), _wrapped(why, " " * 8), _wrapped(finding.remedy, "     -> ")]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(["\n".join(summary(diagnosis)), *paragraphs]) + "\n"


def _wrapped(text: str, first: str) -> str:
    return textwrap.fill(
        text,
        width=100,
        initial_indent=first,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary(diagnosis: Diagnosis) -> list[str]:
    """What was looked at, what it will take, and how many findings there are."""
    recording, config = diagnosis.recording, diagnosis.config
    seconds = recording.frames / recording.fps
    sizes = [f"{name} {_size(recording, name)}" for name in config.image_features]
    vectors = [f"{name} ({size})" for name, size in config.vector_features.items()]
    counts = [
        counted(n, level)
        for level in LEVELS
        if (n := sum(finding.level == level for finding in diagnosis.findings))
    ]
    memory = bytes_in_memory(recording)
    lines = [
        f"{recording.repo_id}: {counted(len(recording.episodes), 'episode')}, "
        f"{counted(recording.frames, 'frame')}, {number(seconds)} s at {number(recording.fps)} fps",
        f"The policy sees {', '.join([*sizes, *vectors]) or 'nothing'}.",
        f"e0 train keeps {number(memory / 1e6)} MB of frames in memory.",
    ]
    if diagnosis.tokens is not None:
        lines.append(_token_line(diagnosis.tokens))
    return [*lines, f"Found: {', '.join(counts) or 'nothing'}."]


def _size(recording: Recording, camera: str) -> str:
    return "×".join(map(str, recording.features[camera]["shape"]))


def _token_line(tokens: TokenError) -> str:
    reach = np.where(tokens.reach > 0, tokens.reach, 1.0)
    return (
        f"Action tokens ({tokens.kind}, up to {tokens.codes.max()} codes) err by at most "
        f"{100 * (tokens.rms / reach).max():.2g} % of a dimension's range (rms, held out); "
        f"the largest gap is {100 * widest_gap(tokens).max():.2g} %."
    )
