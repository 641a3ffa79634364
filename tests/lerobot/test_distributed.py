"""Two processes on the CPU: the same gradients as one, and the whole training program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from e0 import Observation, Policy, PolicySettings
from e0.diffusion import Corrupted, Schedule, corrupt
from e0.network.language import encode_instructions
from e0.network.presets import PRESETS, find_preset
from e0.objectives import diffusion

RANKS, BATCH, DRAWS, H, D = 2, 4, 2, 3, 2


class PolicyLoss(nn.Module):
    """DistributedDataParallel wants the loss to be a forward pass."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Observation, actions: Tensor, valid: Tensor) -> Tensor:
        return self.policy.loss(observation, actions, valid).mean()


def make_loss() -> PolicyLoss:
    torch.manual_seed(0)
    PRESETS["test"] = replace(find_preset("tiny"), depth=2, image_size=32)
    settings = PolicySettings(
        preset="test",
        cameras=("front",),
        vectors={"state": 3},
        action_dim=D,
        horizon=H,
        vocabulary_size=16,
        noise_draws=DRAWS,
    )
    policy = Policy(settings)
    policy.tokenizer.fit(torch.rand(50, D))
    return PolicyLoss(policy)


def share(rows: slice) -> tuple[Observation, Tensor, Tensor]:
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
    instruction = encode_instructions(["push", "pull", "open", "close"], 64, 8)[rows]
    observation = Observation({"front": images[rows]}, {"state": states[rows]}, instruction)
    return observation, actions[rows], torch.ones(BATCH, H, dtype=torch.bool)[rows]


def gradients(module: nn.Module, rows: slice) -> dict[str, Tensor]:
    """After two passes: DistributedDataParallel reports an unused parameter at the second."""
    for _ in range(2):
        module.zero_grad()
        module(*share(rows)).backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def work(rank: int, directory: str) -> None:
    """One of the two processes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=RANKS)
    size = BATCH // RANKS
    found = gradients(DistributedDataParallel(make_loss()), slice(rank * size, (rank + 1) * size))
    torch.save(found, f"{directory}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes after the test what `make_loss` and `share` change."""
    monkeypatch.setitem(PRESETS, "test", find_preset("tiny"))
    monkeypatch.setattr(diffusion, "training_time", diffusion.training_time)
    monkeypatch.setattr(diffusion, "corrupt", diffusion.corrupt)


@pytest.mark.usefixtures("restored")
def test_two_processes_find_the_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=RANKS)
    expected = gradients(make_loss(), slice(None))
    of_one_share = gradients(make_loss(), slice(0, BATCH // RANKS))
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    name = "policy.network.action_tokens.output.weight"
    assert not torch.allclose(of_one_share[name], expected[name], rtol=1e-2)


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
