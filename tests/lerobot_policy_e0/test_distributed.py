"""Two processes on the CPU: the same gradients as one, whole or sharded, and the whole training
program.

LeRobot shards with accelerate and torch's first FSDP, which refuses to run without an accelerator;
here the same units are sharded by its successor, which does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from e0 import Observation, Policy, PolicySettings
from e0.diffusion import Corrupted, Schedule, corrupt
from e0.network.language import encode_instructions
from e0.network.presets import PRESETS, ByteShape, find_preset
from e0.network.vision import KeypointTower
from e0.objectives import diffusion
from lerobot_policy_e0 import E0Policy

RANKS, BATCH, DRAWS, H, D = 2, 4, 2, 3, 2


class PolicyLoss(nn.Module):
    """DistributedDataParallel wants the loss to be a forward pass."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Observation, actions: Tensor, valid: Tensor) -> Tensor:
        return self.policy.loss(observation, actions, valid).mean()


def make_loss(preset: str) -> PolicyLoss:
    torch.manual_seed(0)
    PRESETS["test"] = replace(find_preset("tiny"), depth=2, image_size=(32, 32))
    settings = PolicySettings(
        preset=preset,
        cameras=("front",),
        vectors={} if find_preset(preset).state == "prompt" else {"state": 3},
        action_dim=D,
        horizon=H,
        vocabulary_size=16,
        noise_draws=DRAWS,
    )
    policy = Policy(settings)
    policy.tokenizer.fit(torch.rand(50, D))
    tower: Any = policy.network.tower
    if isinstance(tower, KeypointTower):  # in float32: bfloat16 rounds by how a batch is divided
        tower._convolved = tower.stem.forward
    return PolicyLoss(policy)


def share(rows: slice, preset: str) -> tuple[Observation, Tensor, Tensor]:
    """These rows of the joint batch. The random numbers of the loss are fixed to theirs."""
    generator = torch.Generator().manual_seed(1)
    images, states = (torch.rand(BATCH, *s, generator=generator) for s in ((3, 32, 32), (3,)))
    actions = torch.rand(BATCH, H, D, generator=generator)
    time = torch.rand(BATCH, DRAWS, generator=generator)[rows].flatten()
    fixed = torch.randn(BATCH, DRAWS, H, D, 1, generator=generator)[rows].flatten(0, 1)

    def fixed_corrupt(
        clean: Tensor, t: Tensor, schedule: Schedule, noise: Tensor | None
    ) -> Corrupted:
        assert noise is None
        return corrupt(clean, t, schedule, noise=fixed)

    diffusion.training_time = lambda *_: time
    diffusion.corrupt = fixed_corrupt
    sizes = find_preset(preset)
    if isinstance(sizes.language, ByteShape):
        instruction = encode_instructions(["push", "pull", "open", "close"], 64, 8)[rows]
    else:
        instruction = torch.arange(4 * BATCH).view(BATCH, 4)[rows]
    vectors = {} if sizes.state == "prompt" else {"state": states[rows]}
    observation = Observation({"front": images[rows]}, vectors, instruction)
    return observation, actions[rows], torch.ones(BATCH, H, dtype=torch.bool)[rows]


def gradients(module: nn.Module, rows: slice, preset: str) -> dict[str, Tensor]:
    """After two passes: DistributedDataParallel reports an unused parameter at the second."""
    for _ in range(2):
        module.zero_grad()
        module(*share(rows, preset)).backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def two_steps(module: nn.Module, rows: slice, preset: str) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(*share(rows, preset)).backward()
        optimizer.step()


def start(rank: int, directory: str) -> slice:
    """Join the group; this rank's rows of the joint batch."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=RANKS)
    size = BATCH // RANKS
    return slice(rank * size, (rank + 1) * size)


WHOLE, SHARDED = ("test", "paligemma_debug"), ("paligemma_debug", "paligemma_pi0_debug")


def work(rank: int, directory: str) -> None:
    """One of two processes: with the whole network, and with a half of every block."""
    rows = start(rank, directory)
    for preset in WHOLE:
        found = gradients(DistributedDataParallel(make_loss(preset)), rows, preset)
        torch.save(found, f"{directory}/{preset}-{rank}.pt")
    for preset in SHARDED:
        module = make_loss(preset)
        units = [m for m in module.modules() if type(m).__name__ in E0Policy._no_split_modules]
        for unit in [*units, module]:
            fully_shard(unit)
        two_steps(module, rows, preset)
        numbers = sum(parameter.to_local().numel() for parameter in module.parameters())
        state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            torch.save((numbers, state), f"{directory}/{preset}-state.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes found."""
    directory = tmp_path_factory.mktemp("worked")
    multiprocessing.spawn(work, (str(directory),), nprocs=RANKS)
    return directory


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes after the test what `make_loss` and `share` change."""
    monkeypatch.setitem(PRESETS, "test", find_preset("tiny"))
    monkeypatch.setattr(diffusion, "training_time", diffusion.training_time)
    monkeypatch.setattr(diffusion, "corrupt", diffusion.corrupt)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("preset", WHOLE)
def test_two_processes_find_the_gradients_of_one(worked: Path, preset: str) -> None:
    expected = gradients(make_loss(preset), slice(None), preset)
    of_one_share = gradients(make_loss(preset), slice(0, BATCH // RANKS), preset)
    for rank in range(RANKS):
        found = torch.load(worked / f"{preset}-{rank}.pt")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    name = "policy.network.action_tokens.output.weight"
    assert not torch.allclose(of_one_share[name], expected[name], rtol=1e-2)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("preset", SHARDED)
def test_sharded_training_ends_as_that_of_one_process(worked: Path, preset: str) -> None:
    sharded, state = torch.load(worked / f"{preset}-state.pt")
    whole = make_loss(preset)
    assert sharded < 0.6 * sum(parameter.numel() for parameter in whole.parameters())
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    two_steps(whole, slice(None), preset)
    assert state.keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    moved = "policy.network.suffix_blocks.0.mlp.down.weight"
    assert (state[moved] - start[moved]).abs().max() > 1e-4
    again = make_loss(preset)
    again.load_state_dict(state, strict=True)


def test_a_gathered_state_is_saved_and_loads_strictly(image_dataset: Path, tmp_path: Path) -> None:
    """What LeRobot gathers from all processes it hands to `save_pretrained`."""
    from small_dataset import build

    policy = build(image_dataset, preset="paligemma_pi0_debug", use_instruction=False)[0]
    state = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in policy.state_dict().items()
    }
    policy.save_pretrained(tmp_path, state_dict=state)
    again = E0Policy.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


@pytest.mark.slow
def test_the_training_program_runs_in_two_processes(vector_dataset: Path, tmp_path: Path) -> None:
    """Without cameras: then nothing of the image part may wait for a gradient."""
    output = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
    flags = {
        "dataset.repo_id": f"local/{vector_dataset.name}",
        "dataset.root": vector_dataset,
        "output_dir": output,
        "policy.type": "e0",
        "policy.push_to_hub": "false",
        "policy.device": "cpu",
        "num_workers": 0,
        "batch_size": 8,
        "steps": 2,
        "save_freq": 2,
        "log_freq": 1,
        "env_eval_freq": 0,
    }
    log = tmp_path / "log"
    process = subprocess.Popen(
        [
            sys.executable,
            *launcher,
            *("-m", "lerobot_policy_e0.training"),
            *[f"--{name}={value}" for name, value in flags.items()],
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    last = output / "checkpoints" / "last"
    deadline = time.monotonic() + 300
    try:
        while not last.exists():
            assert process.poll() is None or last.exists(), log.read_text()[-3000:]
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.2)
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        pass  # gloo's farewell can hang on a busy machine; all that counts is written by now
    finally:
        process.terminate()  # the launcher ends its workers
        process.wait()
    state = last / "training_state" / "training_step.json"
    saved = json.loads(state.read_text())
    assert (saved["step"], saved["num_processes"]) == (2, RANKS)
    curve = (output / "learning_curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [1, 2]
