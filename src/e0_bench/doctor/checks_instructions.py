"""Checks of the texts that tell the policy what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np

from e0_bench.doctor.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    counted,
    in_episodes,
    left_out,
    listed,
)

FEATURE = "instructions"
PLACEHOLDER = re.compile(
    r"(new |my |the |a |some |dummy |test |default |sample |example |unknown )?"
    r"(tasks?|instructions?|prompts?|descriptions?|text|strings?|episodes?|todo|tbd|fixme|tests?|"
    r"testing|dummy|none|null|nan|n/?a|unknown|default|placeholder|untitled|no (task|instruction)|"
    r"asdf\w*|foo|bar|xxx+|lorem ipsum.*)?[\W_]*\d*",
    re.IGNORECASE,
)
EDIT = "lerobot-edit-dataset --operation.type=modify_tasks --operation."


def check_instructions(
    tasks: dict[int, Any], task_of_episode: dict[int, set[int]], maximum_bytes: int, used: bool
) -> list[Finding]:
    """Instructions by index; the indices that each episode's frames name; what fits."""
    named = set().union(*task_of_episode.values())
    findings = _missing(tasks, task_of_episode)
    texts = {i: tasks[i] for i in sorted(named & tasks.keys())}
    strange = {i: text for i, text in texts.items() if not _is_text(text)}
    for index, text in strange.items():
        findings.append(
            _finding(
                ERROR,
                "odd instruction",
                f"task {index} is no readable text: {str(text)[:40]!r}",
                "the policy reads its bytes as an instruction",
                f'{EDIT}episode_tasks=\'{{"0": "..."}}\'',
                _episodes(task_of_episode, {index}),
            )
        )
    words = {i: text for i, text in texts.items() if i not in strange}
    empty = {i for i, text in words.items() if not text.strip()}
    if empty:
        findings.append(
            _finding(
                WARNING,
                "empty instruction",
                "empty",
                "the policy cannot be told what to do",
                f'{EDIT}new_task="what the robot does"; or train without: '
                "--policy.use_instruction=false",
                _episodes(task_of_episode, empty),
            )
        )
    hollow = {i for i in words.keys() - empty if PLACEHOLDER.fullmatch(words[i].strip())}
    for index in sorted(hollow):
        findings.append(
            _finding(
                WARNING,
                "placeholder",
                f"{words[index]!r} looks like a placeholder",
                "an instruction that says nothing cannot be followed, and words known from "
                "pretraining are lost",
                f'{EDIT}task_replacements=\'{{"{words[index]}": "what the robot does"}}\'',
                _episodes(task_of_episode, {index}),
            )
        )
    findings += _long(words, task_of_episode, maximum_bytes, used) + _alike(words, task_of_episode)
    if len(texts) == len(words) == 1 and not empty and not hollow:
        findings.append(
            Finding(
                NOTE,
                "one instruction",
                FEATURE,
                f"all episodes have the same one, {next(iter(words.values()))[:60]!r}",
                "the policy will do this whatever it is told",
                "none needed for one task; --policy.use_instruction=false leaves it out",
            )
        )
    return findings


def _is_text(text: object) -> bool:
    return isinstance(text, str) and not re.search(r"[\x00-\x08\x0e-\x1f\ufffd]", text)


def _episodes(task_of_episode: dict[int, set[int]], tasks: set[int]) -> tuple[int, ...]:
    return tuple(e for e, indices in sorted(task_of_episode.items()) if indices & tasks)


def _finding(
    level: str, check: str, told: str, why: str, remedy: str, episodes: tuple[int, ...]
) -> Finding:
    where = f"{told} ({in_episodes(episodes)})"
    return Finding(level, check, FEATURE, where, why, remedy, (), episodes)


def _missing(tasks: dict[int, Any], task_of_episode: dict[int, set[int]]) -> list[Finding]:
    unknown = set().union(*task_of_episode.values()) - tasks.keys()
    if not unknown:
        return []
    episodes = _episodes(task_of_episode, unknown)
    return [
        _finding(
            ERROR,
            "missing instruction",
            f"no text for task {listed(sorted(unknown))} in meta/tasks.parquet",
            "loading these frames fails",
            left_out(episodes, len(task_of_episode)),
            episodes,
        )
    ]


def _long(
    words: dict[int, str], task_of_episode: dict[int, set[int]], maximum: int, used: bool
) -> list[Finding]:
    sizes = {i: len(text.encode()) for i, text in words.items()}
    long = {i for i, size in sizes.items() if size > maximum}
    if not long or not used:
        return []
    largest = max(sizes.values())
    return [
        _finding(
            ERROR,
            "long instruction",
            f"{counted(len(long), 'instruction')} longer than {maximum} bytes, up to {largest}",
            "training refuses them",
            f"--policy.maximum_instruction_bytes={int(np.ceil(largest / 64)) * 64}, or shorten",
            _episodes(task_of_episode, long),
        )
    ]


def _alike(words: dict[int, str], task_of_episode: dict[int, set[int]]) -> list[Finding]:
    """Several instructions that differ only in case, spaces and punctuation."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in words.items():
        groups[re.sub(r"[\W_]+", " ", text.casefold()).strip()].append(index)
    return [
        _finding(
            WARNING,
            "alike instructions",
            "the same but for case, spaces or punctuation: "
            + listed([repr(words[i]) for i in indices]),
            "the policy reads bytes: to it these are different tasks",
            f'{EDIT}task_replacements=\'{{"{words[indices[1]]}": "{words[indices[0]]}"}}\'',
            _episodes(task_of_episode, set(indices)),
        )
        for indices in groups.values()
        if len(indices) > 1
    ]
