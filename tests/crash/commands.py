"""The commands that are killed, in small and without pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from crash.harness import Command, episodes
from lerobot_policy_e0.vlabench.importing import EPISODES_OF_A_PART
from vlabench_recordings import recording, write_recording

E0 = ("-m", "e0_bench.cli")
TASK = "PushCube-v1"
SMALL = [f"--tasks={TASK}", "--workers=1"]
OPTIONS = ("proprioception=compact", "state_only=true", "episode_length=10")
TRAIN = """
import sys
from pathlib import Path
from e0_bench.training_run import local_training, train

policy = {"device": "cpu", "preset": "tiny"}
loop = {"steps": 20, "batch_size": 4, "save_freq": 4, "log_freq": 1}
train(local_training(Path(sys.argv[1]), policy, loop), Path(sys.argv[2]) / "lr_0.001")
"""
RECIPE = f"""
[dataset]
tasks = ["{TASK}"]
episodes = 2
seed = 100_000
[environment]
proprioception = "compact"
state_only = true
[training]
steps = 4
batch_size = 4
[training.policy]
device = "cpu"
[policies.e0]
objective = "e0"
denoising_steps = 2
[policies."regression_0.1"]
objective = "regression"
[held_out]
episodes = 1
seed = 600_000
[benchmark]
episodes = 2
seed = 800_000
"""


def collect() -> Command:
    flags = [*SMALL, "--state-only", "--proprioception=compact", "--episodes=4", "--seed=5000"]
    return Command(
        lambda out: [*E0, "collect", f"--output={out / 'data'}", *flags],
        lambda out: _dataset(out / "data"),
    )


def import_vlabench(source: Path) -> Command:
    """Three parts, of which finished ones are not written again."""
    for seed in range(2 * EPISODES_OF_A_PART + 2):
        write_recording(source / f"data_{seed}.hdf5", recording(seed, steps=4))

    def result(out: Path) -> Any:
        tables, record = _dataset(out / "data")
        return tables, record["episodes"]

    return Command(
        lambda out: [*E0, "import-vlabench", str(source), f"--output={out / 'data'}"], result
    )


def train(dataset: Path) -> Command:
    return Command(
        lambda out: ["-c", TRAIN, str(dataset), str(out)],
        lambda out: _training(out / "lr_0.001", 20),
    )


def bench(checkpoint: Path) -> Command:
    flags = [f"--checkpoints={checkpoint}", f"--tasks={TASK}", "--episodes=6", "--workers=2"]
    return Command(
        lambda out: [
            "-m",
            "e0_bench.cli",
            "bench",
            f"--out={out}",
            *flags,
            "--env-options",
            *OPTIONS,
        ],
        lambda out: (episodes(out / "episodes.jsonl"), _read(out, "summary.json")["rates"]),
    )


def compare(directory: Path) -> Command:
    recipe = directory / "recipe.toml"
    recipe.write_text(RECIPE)

    def result(out: Path) -> Any:
        found = _read(out, "comparison.json")
        for row in found["policies"].values():
            del row["training_seconds"]
        trainings = [_training(out / "train" / label, 4) for label in found["policies"]]
        kept = episodes(out / "benchmark" / "episodes.jsonl")
        return found["policies"], trainings, kept, found["benchmark"]["rates"]

    return Command(
        lambda out: [
            "-m",
            "e0_bench.cli",
            "compare",
            str(recipe),
            f"--output={out}",
            "--workers=1",
        ],
        result,
    )


def demo() -> Command:
    flags = [*SMALL, "--demonstrations=2", "--training-steps=10", "--batch-size=4"]
    flags += ["--evaluation-episodes=2", "--blackout-episodes=1", "--denoising-steps=2"]

    def result(out: Path) -> Any:
        assert (out / "report.html").read_text().rstrip().endswith("</html>")
        kept = episodes(out / "evaluation" / "episodes.jsonl")
        data, trained = _dataset(out / "dataset"), _training(out / "train", 10)
        return _read(out, "results.json")["tasks"], kept, data, trained

    return Command(lambda out: [*E0, "demo", f"--output={out}", *flags], result)


def _read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


def _dataset(root: Path) -> Any:
    """Every number of a dataset, and its record; nothing else may lie beside it."""
    import pyarrow.parquet

    assert not root.with_name(f"{root.name}.partial").exists()
    tables = [pyarrow.parquet.read_table(path) for path in sorted(root.glob("data/*/*.parquet"))]
    return [table.to_pydict() for table in tables], _read(root, "meta/collection.json")


def _training(directory: Path, steps: int) -> Any:
    """A digest of the weights, and the steps and losses of the learning curve."""
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    last = directory / "checkpoints" / "last"
    assert last.resolve().name == f"{steps:06d}"
    weights = (last / "pretrained_model" / "model.safetensors").read_bytes()
    curve = read_learning_curve(directory / LEARNING_CURVE)
    losses = [(row["step"], row["loss"]) for row in curve]
    return hashlib.sha256(weights).hexdigest(), losses
