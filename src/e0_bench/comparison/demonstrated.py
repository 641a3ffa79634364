"""How far demonstrated actions change from step to step: what seams between chunks are held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def demonstrated_changes(dataset: Path) -> dict[str, float]:
    """By task of a LeRobotDataset: the mean size of the change from one action to the next within
    its episodes. Sizes are root mean squares over dimensions, in deviations of all actions, as in
    `LateChunks.smoothness`; dimensions that never change are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lerobot.datasets import LeRobotDatasetMetadata

    from lerobot_policy_e0.columns import data_files

    meta = LeRobotDatasetMetadata(f"local/{dataset.name}", root=dataset)
    columns = ["action", "episode_index", "task_index"]
    frames = pa.concat_tables(pq.read_table(file, columns=columns) for file in data_files(meta))
    actions = np.stack(frames["action"].to_numpy())
    episodes, tasks = (frames[name].to_numpy() for name in columns[1:])
    deviation = actions.std(0)
    changes = np.diff(actions, axis=0)[:, deviation > 0] / deviation[deviation > 0]
    sizes, within = np.sqrt((changes**2).mean(1)), np.diff(episodes) == 0
    return {
        str(name): float(sizes[within & (tasks[1:] == number)].mean())
        for name, number in meta.tasks["task_index"].items()  # pyright: ignore[reportOptionalSubscript]
    }
