"""A policy that acts: on which weights, in which thread, on what, and where."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from acting_policies import (
    CAMERA,
    SMALL,
    STATE,
    WEIGHT,
    D,
    H,
    make_policy,
    noise,
    observe,
    plain,
)
from lerobot.policies import PreTrainedPolicy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from e0.network.presets import PRESETS
from e0.objectives import ActionChunk
from e0.sampling import weight_watch
from lerobot_policy_e0 import E0Policy


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "test", SMALL)


# Finite numbers


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("feature", [STATE, CAMERA])
def test_a_sensor_that_drops_out_gives_no_action(fast: bool, feature: str) -> None:
    policy = make_policy(fast_sampling=fast)
    broken = observe()
    broken[feature][0, 0] = torch.nan
    with pytest.raises(ValueError, match=feature):
        policy.select_action(broken)
    assert policy.select_action(observe()).isfinite().all()


# The weights as they are


def change_one_weight(policy: E0Policy) -> None:
    with torch.no_grad():
        policy.model.network.get_parameter(WEIGHT).add_(torch.randn(1))


def change_one_fused_weight(policy: E0Policy) -> None:
    with torch.no_grad():
        policy.model.network.get_parameter("suffix_blocks.1.attention.query.weight").mul_(3.0)


def step_an_optimizer(policy: E0Policy) -> None:
    batch = observe() | {"action": torch.zeros(2, H, D)}
    policy.forward(batch)[0].backward()  # in evaluation mode, as it is
    torch.optim.SGD(policy.parameters(), lr=1.0).step()


def load(policy: E0Policy) -> None:
    policy.load_state_dict(make_other_weights(policy), strict=False)


def assign(policy: E0Policy) -> None:
    policy.load_state_dict(make_other_weights(policy), strict=False, assign=True)


def assign_in_a_part(policy: E0Policy) -> None:
    network = policy.model.network
    other = {name: nn.Parameter(p + 0.1) for name, p in network.state_dict().items()}
    network.load_state_dict(other, assign=True)


def move(policy: E0Policy) -> None:
    policy.double().float()
    change_one_weight(policy)


def make_other_weights(policy: E0Policy) -> dict[str, Tensor]:
    state = policy.state_dict()
    return {name: x + 0.1 * torch.randn_like(x) for name, x in state.items() if "network" in name}


CHANGES = [
    change_one_weight,
    change_one_fused_weight,
    step_an_optimizer,
    load,
    assign,
    assign_in_a_part,
    move,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_next_chunk_follows_changed_weights(change: Callable[[E0Policy], None]) -> None:
    policy = make_policy(objective="flow")  # not codes, which hide small changes
    first = policy.predict_action_chunk(observe(), noise=noise())
    torch.testing.assert_close(first, plain(policy))
    change(policy)
    second = policy.predict_action_chunk(observe(), noise=noise())
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, plain(policy))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_large_policy_follows_what_changes_as_a_whole_at_once_and_the_rest_at_a_reset(
    change: Callable[[E0Policy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_watch, "AT_ONCE", 5)
    policy = make_policy(objective="flow")
    policy.predict_action_chunk(observe(), noise=noise())
    change(policy)
    if change in (change_one_weight, change_one_fused_weight):
        policy.reset()
    chunk = policy.predict_action_chunk(observe(), noise=noise())
    torch.testing.assert_close(chunk, plain(policy))


def test_a_single_weight_is_found_without_a_reset_after_some_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_watch, "AT_ONCE", 10)
    policy = make_policy(objective="flow")
    policy.predict_action_chunk(observe(), noise=noise())
    change_one_weight(policy)
    chunks = [policy.predict_action_chunk(observe(), noise=noise()) for _ in range(12)]
    torch.testing.assert_close(chunks[-1], plain(policy))


def test_the_average_is_followed_too() -> None:
    policy = make_policy(objective="flow", ema_decay=0.5)
    policy.predict_action_chunk(observe(), noise=noise())
    change_one_weight(policy)
    policy.update()
    chunk = policy.predict_action_chunk(observe(), noise=noise())
    torch.testing.assert_close(chunk, plain(policy))


@pytest.mark.parametrize("own", [{}, {"ema_decay": 0.9}, {"fast_sampling": False}])
def test_nothing_that_grows_with_the_policy_is_done_for_a_chunk(
    own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_watch, "AT_ONCE", 7)
    policy = make_policy(**own)
    policy.predict(observe())
    names = ("train", "modules", "named_modules", "named_parameters", "named_buffers", "children")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("all of the policy is walked through")

    looks: list[int] = []
    changed = weight_watch._Seen.changed
    monkeypatch.setattr(
        weight_watch._Seen, "changed", lambda seen: looks.append(1) or changed(seen)
    )
    for name in names:
        monkeypatch.setattr(nn.Module, name, refuse)
    for _ in range(3):
        looks.clear()
        policy.predict(observe())
        assert len(looks) <= 7


def test_a_compiled_policy_acts_by_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    settings = {"objective": "flow", "ema_decay": 0.5, "fast_sampling": False}
    compiled, other = (make_policy(**settings, compile_model=c) for c in (True, False))
    for policy in (compiled, other):
        torch.manual_seed(7)
        change_one_weight(policy)
        policy.update()
    chunks = [p.predict_action_chunk(observe(), noise=noise()) for p in (compiled, other)]
    torch.testing.assert_close(*chunks)


# Before time counts


@pytest.mark.parametrize(
    "objective", ["e0", "masked", "dfm", "autoregressive", "regression", "mip"]
)
def test_warming_up_makes_all_ahead_and_changes_nothing(
    objective: str,
) -> None:
    actions: dict[bool, list[Tensor]] = {}
    for warm in (True, False):
        policy = make_policy(objective=objective)
        torch.manual_seed(3)
        if warm:
            policy.warm_up(observe())
            assert policy.actions_left == 0 and policy.last_chunk is None
        made = dict(policy._samplers._made)
        assert bool(made) == warm
        actions[warm] = []
        for _ in range(5):
            actions[warm].append(policy.select_action(observe()))
            if warm:
                left = policy.actions_left
                policy.warm_up(observe())
                assert policy.actions_left == left and policy._samplers._made == made
    torch.testing.assert_close(actions[True], actions[False], rtol=0, atol=0)


# Episodes


def test_threads_have_episodes_of_their_own() -> None:
    policy = make_policy()

    def predict(batch: dict[str, Any], **_: Any) -> ActionChunk:
        actions = batch[STATE][:, None, :D].expand(-1, H, -1)
        return ActionChunk(actions, None, 1, None)

    policy.predict = predict
    turn, right = threading.Barrier(2, timeout=5), []

    def act(number: float) -> None:
        batch = observe() | {STATE: torch.full((2, 3), number)}
        for _ in range(2):
            policy.reset()
            for step in range(5):
                turn.wait()  # both ask for the same step of their episodes
                right.append(
                    bool((policy.select_action(batch) == number).all())
                    and policy.last_chunk is not None
                    and policy.actions_left == 1 - step % 2
                )

    threads = [threading.Thread(target=act, args=(number,)) for number in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20


def test_a_thread_that_has_begun_no_episode_is_refused() -> None:
    policy, errors = make_policy(), []
    policy.select_action(observe())

    def act() -> None:
        try:
            policy.select_action(observe())
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "call policy.reset() in the thread that acts" in errors[0]


def test_another_batch_in_mid_episode_is_refused() -> None:
    policy = make_policy()
    policy.select_action(observe(2))
    with pytest.raises(ValueError, match="batch has 3 observations, the running episode has 2"):
        policy.select_action(observe(3))
    assert policy.select_action(observe(2)).shape == (2, D)
    assert policy.select_action(observe(3)).shape == (3, D)  # a new chunk begins


def test_queued_actions_are_dropped_under_lerobots_name() -> None:
    policy = make_policy()
    policy.select_action(observe())
    assert len(policy._action_queue) == 1
    policy._action_queue.clear()
    chunk = policy.last_chunk
    policy.select_action(observe())
    assert policy.last_chunk is not chunk


# Copies, modes and devices


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
@pytest.mark.parametrize("own", [{}, {"ema_decay": 0.5}, {"compile_model": True}])
def test_a_policy_that_has_acted_can_be_copied(
    way: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(function: Any, **_: Any) -> Any:
        return lambda *arguments: function(*arguments)  # cannot be pickled, as the real one

    monkeypatch.setattr(torch, "compile", compiled)
    policy = make_policy(objective="flow", **own)
    policy.select_action(observe())
    copies = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
    other = copies[way](policy)
    assert policy.actions_left == 1 and other.actions_left == 0 and other.last_chunk is None
    chunk = policy.predict_action_chunk(observe(), noise=noise())
    torch.testing.assert_close(other.predict_action_chunk(observe(), noise=noise()), chunk)
    change_one_weight(policy)
    torch.testing.assert_close(other.predict_action_chunk(observe(), noise=noise()), chunk)
    assert other.select_action(observe()).shape == (2, D)


@pytest.mark.parametrize("own", [{}, {"ema_decay": 0.5}, {"fast_sampling": False}])
def test_a_policy_that_was_loaded_under_inference_mode_acts(
    own: dict[str, Any], tmp_path: Path
) -> None:
    policy = make_policy(objective="flow", **own)
    policy.save_pretrained(tmp_path)
    chunk = policy.predict_action_chunk(observe(), noise=noise())
    with torch.inference_mode():
        loaded = E0Policy.from_pretrained(tmp_path)
        inside = loaded.predict_action_chunk(observe(), noise=noise())
    torch.testing.assert_close(inside, chunk)
    for _ in range(2):
        loaded.reset()
        torch.testing.assert_close(loaded.predict_action_chunk(observe(), noise=noise()), chunk)
        loaded.select_action(observe())


def test_everything_follows_the_weights_and_nothing_the_setting_of_a_device(
    tmp_path: Path,
) -> None:
    teacher = make_policy()
    teacher.save_pretrained(tmp_path)
    policy = make_policy(reflow_from=str(tmp_path), reflow_steps=1)
    policy.load_state_dict(teacher.state_dict())
    policy.config.device = "cuda:7"  # where it is no more
    assert policy.select_action(observe()).device.type == "cpu"
    policy.warm_up(observe())
    loss, _ = policy.forward(observe() | {"action": torch.zeros(2, H, D)})
    assert loss.isfinite()
    policy.to("meta")
    assert policy.device.type == "meta"
    assert policy._teacher().tokenizer.codebook.device.type == "meta"


# What LeRobot and PyTorch ask of a policy in training


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_averages_are_not_sent_around(process_group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(ema_decay=0.9)
    parallel = DistributedDataParallel(policy)
    sent = set(parallel.named_module_buffers)
    assert not any(name.startswith("average.") for name in sent)
    assert "model.tokenizer.codebook" in sent
    assert policy.state_dict().keys() >= {"average.updates"}


def test_learned_offsets_do_not_decay() -> None:
    policy = make_policy()
    names = {id(p): name for name, p in policy.named_parameters()}
    decayed, others = ([names[id(p)] for p in g["params"]] for g in policy.get_optim_params())
    wide = {name for name in others if policy.get_parameter(name).ndim > 1}
    assert wide == {"model.network.camera_identity", "model.network.step_identity"}
    assert all(policy.get_parameter(name).ndim > 1 for name in decayed)
    assert sorted([*decayed, *others]) == sorted(names.values())


def test_units_of_sharded_training_are_there_under_both_names() -> None:
    policy = make_policy()
    kinds = {type(module).__name__ for module in policy.modules()}
    assert "Block" in kinds
    assert policy._fsdp_wrap_modules == policy._no_split_modules == ["Block", "VisionBlock"]


def test_saving_works_where_lerobot_gathers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    monkeypatch.setattr(
        PreTrainedPolicy,
        "_save_pretrained",
        lambda self, save_directory: saved.append(save_directory),
    )
    make_policy()._save_pretrained(tmp_path)
    assert saved == [tmp_path]
