"""LeRobot's own programs train, resume and evaluate E0; so does the in-memory loop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.scripts import lerobot_eval, lerobot_train
from lerobot.transforms import ImageTransforms, ImageTransformsConfig
from safetensors.torch import load_file
from small_dataset import (
    CAMERA,
    EPISODES,
    HORIZON,
    STEPS,
    TASKS,
    make_config,
    open_dataset,
    write_dataset,
)
from torch.utils.data import DataLoader

from lerobot_policy_e0 import E0Policy, ManiSkillEnvConfig, training
from lerobot_policy_e0.dataset import FramesInMemory
from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

RunProgram = Callable[..., None]


def training_flags(dataset: Path, output: Path, steps: int, **flags: Any) -> list[str]:
    values = {
        "dataset.repo_id": f"local/{dataset.name}",
        "dataset.root": dataset,
        "output_dir": output,
        "policy.push_to_hub": "false",
        "policy.device": "cpu",
        "policy.noise_draws": 1,
        "policy.vocabulary_size": 32,
        "num_workers": 0,
        "batch_size": 4,
        "steps": steps,
        "save_freq": steps,
        "log_freq": 1,
        "env_eval_freq": 0,
        **{name.replace("__", "."): value for name, value in flags.items()},
    }
    if "policy.path" not in values:
        values["policy.type"] = "e0"
    return [f"--{name}={value}" for name, value in values.items()]


def resume_flags(output: Path, checkpoint: str) -> list[str]:
    return [f"--config_path={model_of(output, checkpoint)}/train_config.json", "--resume=true"]


def model_of(output: Path, checkpoint: str = "last") -> Path:
    return output / "checkpoints" / checkpoint / "pretrained_model"


def step_of(output: Path) -> int:
    state = output / "checkpoints" / "last" / "training_state" / "training_step.json"
    return json.loads(state.read_text())["step"]


def weights_of(output: Path, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    return load_file(model_of(output, checkpoint) / "model.safetensors")


def one_step_apart(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Some weight has moved, none by more than a few times Adam's learning rate of 0.001."""
    assert before.keys() == after.keys()
    moved = max((before[name].float() - after[name].float()).abs().max() for name in before)
    return 0 < float(moved) < 5e-3


# LeRobot's programs


def test_lerobot_train_finds_the_plugin_trains_and_resumes(
    image_dataset: Path, tmp_path: Path, run_program: RunProgram
) -> None:
    """The installed command in its own process, then its last step once more in this one."""
    output = tmp_path / "run"
    command = Path(sys.executable).with_name("lerobot-train")
    result = subprocess.run(
        [str(command), *training_flags(image_dataset, output, 3, save_freq=2)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert step_of(output) == 3
    halfway, finished = weights_of(output, "000002"), weights_of(output, "000003")
    assert torch.equal(halfway["model.tokenizer.codebook"], finished["model.tokenizer.codebook"])
    assert one_step_apart(halfway, finished)

    shutil.rmtree(output / "checkpoints" / "000003")
    run_program(lerobot_train.main, *resume_flags(output, "000002"))
    assert step_of(output) == 3
    assert one_step_apart(halfway, weights_of(output))


def test_lerobot_train_reads_videos(
    video_dataset: Path, tmp_path: Path, run_program: RunProgram
) -> None:
    output = tmp_path / "run"
    run_program(lerobot_train.main, *training_flags(video_dataset, output, 2))
    assert step_of(output) == 2
    assert E0Policy.from_pretrained(model_of(output)).model.settings.cameras == (CAMERA,)


def test_a_checkpoint_is_finetuned(
    image_dataset: Path, tmp_path: Path, run_program: RunProgram
) -> None:
    """With `--policy.path`, through both loops."""
    first = tmp_path / "first"
    run_program(lerobot_train.main, *training_flags(image_dataset, first, 1))
    for main, name in ((lerobot_train.main, "second"), (training.main, "third")):
        output = tmp_path / name
        flags = training_flags(image_dataset, output, 1, policy__path=model_of(first))
        run_program(main, *flags)
        old, new = weights_of(first), weights_of(output)
        assert torch.equal(old["model.tokenizer.codebook"], new["model.tokenizer.codebook"])
        assert one_step_apart(old, new)


def test_evaluation_in_maniskill(tmp_path: Path, run_program: RunProgram) -> None:
    """While training and with lerobot-eval, from states alone: no renderer needed."""
    pytest.importorskip("mani_skill")
    environment = ManiSkillEnvConfig(state_only=True)
    vectors = {
        environment.features_map[name]: feature.shape[0]
        for name, feature in environment.features.items()
        if name != "action"
    }
    dataset = write_dataset(tmp_path / "states", vectors=vectors)
    environment_flags = [
        "--env.type=maniskill",
        "--env.task=PushCube-v1",
        "--env.state_only=true",
        "--env.episode_length=5",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
    ]
    output = tmp_path / "run"
    flags = training_flags(dataset, output, 1, env_eval_freq=1)
    run_program(lerobot_train.main, *flags, *environment_flags)
    assert list((output / "eval").rglob("*.mp4"))

    evaluation = tmp_path / "evaluation"
    run_program(
        lerobot_eval.main,
        f"--policy.path={model_of(output)}",
        "--policy.device=cpu",
        f"--output_dir={evaluation}",
        *environment_flags,
    )
    info = json.loads((evaluation / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1
    assert info["overall"]["pc_success"] in (0.0, 100.0)
    assert info["per_task"][0]["task_group"] == "PushCube-v1"


# Frames in memory


@pytest.mark.parametrize("kind", ["image", "video", "vector"])
@pytest.mark.parametrize("episodes", [None, [1, 3]])
def test_frames_in_memory_are_the_frames_of_the_dataset(
    kind: str, episodes: list[int] | None, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(f"{kind}_dataset")
    dataset = open_dataset(root, make_config(), episodes=episodes, return_uint8=True)
    memory = FramesInMemory(dataset)
    assert len(memory) == len(dataset) == STEPS * (EPISODES if episodes is None else 2)
    assert memory.meta is dataset.meta
    for index in range(0, len(dataset), 5 if kind == "video" else 1):
        expected, item = dataset[index], memory[index]
        assert item.keys() == expected.keys()
        assert item["task"] == expected["task"] in TASKS
        for name, value in expected.items():
            if name == "task":
                continue
            if name == CAMERA:
                assert item[name].dtype == torch.uint8
                value = value if value.dtype == torch.uint8 else (255 * value).round().byte()
            assert item[name].dtype == value.dtype, name
            assert torch.equal(item[name], value), name
    last = memory[STEPS - 1]
    assert last["action_is_pad"].tolist() == [False] + [True] * (HORIZON - 1)
    assert torch.equal(last["action"], last["action"][:1].expand(HORIZON, -1))


def test_frames_in_memory_refuse_random_transforms(image_dataset: Path) -> None:
    transforms = ImageTransforms(ImageTransformsConfig(enable=True))
    dataset = open_dataset(image_dataset, make_config(), image_transforms=transforms)
    with pytest.raises(ValueError, match="would freeze the dataset's random image transforms"):
        FramesInMemory(dataset)


class OwnNumbersLoader(DataLoader):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, generator=torch.Generator())


def test_in_memory_training_equals_lerobots_and_resumes(
    image_dataset: Path,
    tmp_path: Path,
    run_program: RunProgram,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    with monkeypatch.context() as patched:  # as ours: noise alone is drawn from the global numbers
        patched.setattr(torch.utils.data, "DataLoader", OwnNumbersLoader)
        run_program(lerobot_train.main, *training_flags(image_dataset, theirs, 4))
    run_program(training.main, *training_flags(image_dataset, ours, 4, save_freq=2))
    expected = weights_of(theirs)
    for name, weight in weights_of(ours).items():
        torch.testing.assert_close(weight, expected[name], msg=name)
    assert not (theirs / LEARNING_CURVE).exists()
    curve = read_learning_curve(ours / LEARNING_CURVE)
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 and row["lr"] >= 0 for row in curve)

    finished = weights_of(ours)
    run_program(training.main, *resume_flags(ours, "000002"))
    assert step_of(ours) == 4
    for name, weight in weights_of(ours).items():
        assert torch.equal(weight, finished[name]), name
    assert len((ours / LEARNING_CURVE).read_text().splitlines()) == 6
    again = read_learning_curve(ours / LEARNING_CURVE)
    assert [row["step"] for row in again] == [1, 2, 3, 4]
    losses = [(row["loss"], row["grad_norm"], row["lr"]) for row in curve]
    assert [(row["loss"], row["grad_norm"], row["lr"]) for row in again] == losses


def test_in_memory_training_holds_out_episodes(
    vector_dataset: Path, tmp_path: Path, run_program: RunProgram
) -> None:
    """The evaluation loss reads held-out episodes, also where it takes only some of them."""
    flags = {"dataset__eval_split": 0.5, "eval_steps": 1, "max_eval_samples": 6}
    output = tmp_path / "run"
    run_program(training.main, *training_flags(vector_dataset, output, 1, **flags))
    assert step_of(output) == 1


def test_a_learning_curve_with_repeats_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / LEARNING_CURVE
    assert read_learning_curve(path) == []
    rows = [{"step": step, "loss": loss} for step, loss in [(10, 5.0), (20, 4.0), (30, 3.0)]]
    again = [{"step": 20, "loss": 4.5}, {"step": 30, "loss": 3.5}]
    path.write_text("\n".join(json.dumps(row) for row in rows + again) + '\n{"step": 40, "lo')
    assert read_learning_curve(path) == [rows[0], *again]
