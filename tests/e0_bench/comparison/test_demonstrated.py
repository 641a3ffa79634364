"""How far demonstrated actions change from step to step, by task."""

from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from e0_bench.comparison.demonstrated import demonstrated_changes


def test_changes_are_within_episodes_and_in_deviations(tmp_path: Path) -> None:
    features = {"action": {"dtype": "float32", "shape": (3,), "names": None}}
    root = tmp_path / "data"
    dataset = LeRobotDataset.create("local/data", 10, features, root=root, use_videos=False)
    # The first dimension changes by 1 in "push", by 2 in "pull"; the last never does.
    episodes = {"push": [0.0, 1.0, 2.0], "pull": [-100.0, -98.0]}
    for task, values in episodes.items():
        for value in values:
            action = np.array([value, 3 * value, 7.0], np.float32)
            dataset.add_frame({"action": action, "task": task})
        dataset.save_episode()
    dataset.finalize()
    deviation = np.std([value for values in episodes.values() for value in values])
    assert demonstrated_changes(root) == {
        "push": pytest.approx(1 / deviation),
        "pull": pytest.approx(2 / deviation),
    }
