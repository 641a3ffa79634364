"""Chunks that continue the last one, asked for as LeRobot's engine does it, with all that it hands
over beside them."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from acting_policies import CAMERA, SMALL, STATE, D, make_policy, observe
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference import rtc
from lerobot.utils.feature_utils import hw_to_dataset_features
from torch import Tensor

from e0.network.presets import PRESETS
from e0.prefix import Prefix, PrefixError
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from lerobot_policy_e0 import E0Config, E0Policy, real_time
from lerobot_policy_e0.real_time import real_steps

H, TRAINED = 8, 3


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "test", SMALL)


def make(**own: Any) -> E0Policy:
    return make_policy(**{"horizon": H, "rtc_training_max_delay": TRAINED} | own)


def start(seed: int = 5) -> Tensor:
    return torch.randn(1, H, D, 1, generator=torch.Generator().manual_seed(seed))


def rows(count: int, seed: int = 6) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


# What the engine hands over


def zeros_after(steps: Tensor, length: int) -> Tensor:
    """LeRobot 0.6."""
    return rtc._normalize_prev_actions_length(steps, length)


def last_row_after(steps: Tensor, length: int) -> Tensor:
    """After it."""
    return torch.cat((steps, steps[-1:].expand(max(0, length - len(steps)), -1)))[:length]


@pytest.mark.parametrize("fill", [zeros_after, last_row_after])
@pytest.mark.parametrize("delay", [1, TRAINED])
@pytest.mark.parametrize("own", [{}, {"objective": "flow"}, {"objective": "masked"}])
def test_as_the_engine_does_it(fill: Any, delay: int, own: dict[str, Any]) -> None:
    """Steps that are executed while a chunk is made are its first ones, to the bit, and the robot
    goes on behind them."""
    policy, queue = make(**own), ActionQueue(RTCConfig(execution_horizon=10))
    executed: list[Tensor] = []
    for chunk_number in range(4):
        before, left = queue.get_action_index(), queue.get_left_over()
        given = None if left is None else fill(left, 10)
        actions = policy.predict_action_chunk(
            observe(1), inference_delay=delay, prev_chunk_left_over=given
        )
        assert actions.shape == (1, H, D) and actions.isfinite().all()
        meanwhile = [queue.get() for _ in range(delay)]  # while the chunk was made
        if chunk_number:
            assert actions[0, :delay].equal(torch.stack([a for a in meanwhile if a is not None]))
        original = actions.squeeze(0).clone()
        queue.merge(original, original.clone(), delay, before)
        assert queue.qsize() == H - delay
        executed += [queue.get() for _ in range(2)]
    assert all(action is not None for action in executed)


def test_an_empty_queue_gives_nothing() -> None:
    """The engine then hands over zeros, which are no steps."""
    policy = make()
    policy.predict_action_chunk(observe(1))
    for left_over in (torch.zeros(10, D), torch.zeros(0, D)):
        bound, free = (
            policy.predict_action_chunk(observe(1), noise=start(), **given)
            for given in ({"inference_delay": 2, "prev_chunk_left_over": left_over}, {})
        )
        torch.testing.assert_close(bound, free, rtol=1e-5, atol=1e-5)
        assert bound[0, :2].any(-1).all()


@pytest.mark.parametrize("fill", [zeros_after, last_row_after])
def test_steps_are_told_from_what_fills_them_up(fill: Any) -> None:
    last = rows(H)
    last[3], last[-1] = 0.0, 0.0  # these are meant
    for begun in range(H):
        assert real_steps(fill(last[begun:], 12), last) == H - begun
        assert real_steps(fill(last[begun:], 2), last) == min(2, H - begun)
    assert real_steps(torch.zeros(12, D), rows(H)) == 0
    assert real_steps(torch.zeros(0, D), rows(H)) == 0


def test_of_rows_from_elsewhere_what_may_fill_them_up_is_left_out() -> None:
    other = rows(4, seed=8)
    for last in (None, rows(H), rows(H)[:, :1]):
        assert real_steps(other, last) == 4
        assert real_steps(zeros_after(other, 10), last) == 4
        assert real_steps(last_row_after(other, 10), last) == 4
        assert real_steps(torch.zeros(5, D), last) == 0
    other[1] = 0.0  # within
    assert real_steps(other, None) == 4


# What comes of it


@pytest.mark.parametrize(
    ("longest", "delay", "given"),
    [(TRAINED, 2, 2), (TRAINED, 7, TRAINED), (0, 2, 2), (0, 7, H // 2), (H - 1, 20, H - 1)],
)
def test_no_more_steps_are_given_than_were_trained(
    longest: int, delay: int, given: int, caplog: pytest.LogCaptureFixture
) -> None:
    real_time._warn_of_delay.cache_clear()
    policy, steps = make(rtc_training_max_delay=longest), rows(H + 2)
    for left_over in (steps, steps[None]):
        chunk = policy.predict_action_chunk(
            observe(1), inference_delay=delay, prev_chunk_left_over=left_over, execution_horizon=10
        )
        assert chunk[0, :given].equal(steps[:given])
        assert not chunk[0, given:].eq(steps[given:H]).any(-1).any()
    warned = [record for record in caplog.records if "expect jumps" in record.message]
    assert len(warned) == (delay > given)


def test_who_knows_the_steps_gives_them() -> None:
    """As a server does: nothing is left out, nor limited."""
    policy = make()
    steps = torch.zeros(1, H - 1, D)  # which could be filling
    for fast in (True, False):
        policy.config.fast_sampling = fast
        chunk = policy.predict_action_chunk(observe(1), prefix=Prefix.of_steps(steps, H))
        assert chunk[:, :-1].equal(steps) and chunk[:, -1].any()


def test_every_observation_has_its_own_steps() -> None:
    policy = make()
    before = policy.predict_action_chunk(observe(2))
    left = torch.stack([zeros_after(before[0, 2:], 9), zeros_after(before[1, 7:], 9)])
    chunk = policy.predict_action_chunk(observe(2), inference_delay=3, prev_chunk_left_over=left)
    assert chunk[0, :3].equal(before[0, 2:5])
    assert chunk[1, 0].equal(before[1, 7]) and chunk[1, 1:3].any(-1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prev_chunk_left_over": torch.full((4, D), torch.nan)}, "NaN or infinity in the given"),
        ({"prev_chunk_left_over": torch.full((4, D), torch.inf)}, "NaN or infinity in the given"),
        ({"prev_chunk_left_over": rows(4)[:, :1]}, r"needs actions of shape \(1, 8, 2\)"),
        ({"prev_chunk_left_over": torch.ones(2, 4, D)}, r"a prefix of 1 chunks .* \(2, 8, 2\)"),
        ({"prev_chunk_left_over": torch.ones(4)}, r"shape \(T, D\) or \(B, T, D\)"),
        ({"inference_delay": -1}, "must not be negative, got -1"),
        (
            {"prev_chunk_left_over": rows(4), "prefix": Prefix.of_steps(rows(2)[None], H)},
            "either a prefix or prev_chunk_left_over, not both",
        ),
    ],
)
def test_what_is_no_left_over_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefixError, match=message):
        make().predict_action_chunk(observe(1), **{"inference_delay": 2, **given})


@pytest.mark.parametrize("objective", ["regression", "mip"])
def test_what_cannot_continue_says_so(objective: str) -> None:
    policy = make(objective=objective, rtc_training_max_delay=0)
    assert not rtc.supports_rtc_inference(policy)
    with pytest.raises(PrefixError, match=f"the {objective} objective cannot continue"):
        policy.predict_action_chunk(observe(1), inference_delay=1, prev_chunk_left_over=rows(4))
    with pytest.raises(PrefixError, match=f"the {objective} objective cannot continue"):
        make(objective=objective)


# What LeRobot does with a policy before its engine starts


def test_lerobot_takes_it_for_one_that_can() -> None:
    assert rtc.supports_rtc_inference(make())


@pytest.mark.parametrize(
    ("own", "level", "said"),
    [
        ({}, logging.INFO, "chunking of up to 3 steps of 8"),
        ({"rtc_training_max_delay": 0}, logging.WARNING, r"4 steps of 8 .* not trained for it"),
        (
            {"rtc_training_max_delay": 0, "denoising_steps": 1},
            logging.WARNING,
            "at denoising_steps=1 it will not see them",
        ),
        (
            {"rtc_training_max_delay": 0, "denoising_steps": 1, "decoding": "adaptive"},
            logging.WARNING,
            r"\(rtc_training_max_delay\)$",
        ),
        (
            {
                "objective": "flow",
                "rtc_training_max_delay": 0,
                "denoising_steps": 1,
                "decoding": "adaptive",
            },
            logging.WARNING,
            "at denoising_steps=1 it will not see them",
        ),
    ],
)
def test_it_is_said_what_will_happen(
    own: dict[str, Any], level: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make(**own).init_rtc_processor()
    (record,) = [record for record in caplog.records if "real-time" in record.message]
    assert record.levelno == level and re.search(said, record.message)


def test_nothing_of_it_is_compiled_by_lerobot(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, frames = make(), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        frames.append(graph)
        return graph.forward

    given = {"inference_delay": 1, "prev_chunk_left_over": rows(4), "noise": start()}
    expected = policy.predict_action_chunk(observe(1), **given)
    compiled = torch.compile(policy.predict_action_chunk, backend=count)
    monkeypatch.setattr(policy, "predict_action_chunk", compiled)
    assert rtc.supports_rtc_inference(policy)
    assert policy.predict_action_chunk(observe(1), **given).equal(expected)
    assert frames == []


def test_the_engines_settings_of_guidance_are_not_used() -> None:
    policy = make()
    given = {"inference_delay": 2, "prev_chunk_left_over": rows(4)}
    policy.config.rtc_config = SimpleNamespace(enabled=True, mode="guided")  # pyright: ignore
    assert policy.predict_action_chunk(observe(1), **given)[0, :2].equal(rows(4)[:2])
    policy.config.rtc_config = RTCConfig(enabled=False)  # pyright: ignore
    assert not policy.predict_action_chunk(observe(1), **given)[0, :2].eq(rows(4)[:2]).any()


@pytest.mark.parametrize("longest", [0, TRAINED])
def test_warming_up_records_the_one_graph_of_all_delays(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(rtc_training_max_delay=longest)
    policy.config.rtc_config = RTCConfig()  # pyright: ignore[reportAttributeAccessIssue]
    graphed = GraphedSampler(FastSampler(policy.model))
    monkeypatch.setattr(policy._samplers, "get", lambda *_: graphed)
    policy.warm_up(observe(1))
    recorded = list(graphed._recordings)
    for delay, left_over in ((0, None), (1, rows(4)), (3, rows(2)), (2, torch.zeros(4, D))):
        given = {"inference_delay": delay, "prev_chunk_left_over": left_over}
        policy.predict_action_chunk(observe(1), **given)
    assert list(graphed._recordings) == recorded and len(recorded) == 1


class Robot:
    """What LeRobot's engine asks of one."""

    robot_type = "none"


class Unchanged:
    """A pre- or postprocessor that changes nothing."""

    steps = ()

    def __call__(self, batch: Any) -> Any:
        return batch

    def reset(self) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[tuple[rtc.RTCInferenceEngine, E0Policy, list[Any]]]:
    policy, calls = make(), []
    policy.config.rtc_config = RTCConfig()  # pyright: ignore[reportAttributeAccessIssue]
    policy.init_rtc_processor()
    predict = policy.predict_action_chunk

    def watched(batch: Any, **given: Any) -> Tensor:
        left = given["prev_chunk_left_over"]
        chunk = predict(batch, **given)
        calls.append((given["inference_delay"], None if left is None else left.clone(), chunk))
        return chunk

    policy.predict_action_chunk = watched  # pyright: ignore[reportAttributeAccessIssue]
    features = hw_to_dataset_features(
        {"front": (32, 32, 3)} | {f"joint_{i}.pos": float for i in range(3)}, "observation"
    )
    processors: Any = (Unchanged(), Unchanged())
    robot: Any = Robot()
    made = rtc.RTCInferenceEngine(
        policy,
        *processors,
        robot,
        RTCConfig(),
        features,
        "push",
        50.0,
        "cpu",
        rtc_queue_threshold=5,
    )
    yield made, policy, calls
    made.stop()


def test_lerobots_engine_drives_it(
    engine: tuple[rtc.RTCInferenceEngine, E0Policy, list[Any]],
) -> None:
    """The real one, in its thread and by the clock, with LeRobot's own settings for long chunks."""
    made, policy, calls = engine
    made.start()
    made.reset()
    made.resume()
    observation = {"front": torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()}
    observation |= {f"joint_{i}.pos": 0.1 * i for i in range(3)}
    actions = []
    end = time.monotonic() + 20
    while len(actions) < 25 and time.monotonic() < end and not made.failed:
        made.notify_observation(observation)
        action = made.get_action(None)
        actions += [] if action is None else [action]
        time.sleep(0.02)
    assert not made.failed and len(actions) == 25
    later = [(delay, left, chunk) for delay, left, chunk in calls if left is not None and delay]
    assert len(later) >= 2
    for delay, left, chunk in later:
        assert left.shape == (10, D) and not left[H:].any(), "it fills up with zeros"
        given = min(delay, TRAINED, int(left.any(-1).sum()))
        assert chunk[0, :given].equal(left[:given])
    assert any(min(delay, int(left.any(-1).sum())) > 0 for delay, left, _ in later)
    assert {CAMERA, STATE} <= set(policy.config.input_features or {})


# Settings and checkpoints


@pytest.mark.parametrize("longest", [-1, H])
def test_a_delay_that_leaves_no_step_is_refused(longest: int) -> None:
    with pytest.raises(ValueError, match="rtc_training_max_delay must lie between 0 and 7"):
        make(rtc_training_max_delay=longest)


def test_a_chunk_that_is_chosen_later_may_be_long() -> None:
    assert E0Config(rtc_training_max_delay=20, device="cpu").horizon is None
    with pytest.raises(ValueError, match=r"between 0 and 31, .* got 32"):
        E0Config(rtc_training_max_delay=32, device="cpu")


def test_reflow_is_refused() -> None:
    with pytest.raises(ValueError, match="set rtc_training_max_delay=0 with it"):
        make(reflow_from="somewhere")


def test_training_gives_steps() -> None:
    policy = make(noise_draws=4).train()
    batch = observe(2) | {"action": torch.randn(2, H, D)}
    batch["action_is_pad"] = torch.arange(H) >= torch.tensor([H, 2])[:, None]
    seen, denoise = [], policy.model.network.denoise

    def watched(encoded: Any, noisy: Tensor, when: Tensor) -> Tensor:
        seen.append((when == 0).sum(1))
        return denoise(encoded, noisy, when)

    policy.model.network.denoise = watched  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(20):
        policy.forward(batch)[0].backward()
    counts = torch.stack(seen)
    assert counts[:, :4].unique().tolist() == [0, 1, 2, 3]
    assert counts[:, 4:].unique().tolist() == [0, 1], "two steps are no padding"


def test_checkpoints_keep_it_and_those_from_before_have_none(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path)
    again = E0Policy.from_pretrained(tmp_path)
    assert again.model.settings.rtc_training_max_delay == TRAINED
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    del settings["rtc_training_max_delay"]
    file.write_text(json.dumps(settings))
    old = E0Policy.from_pretrained(tmp_path)
    assert old.model.settings.rtc_training_max_delay == 0
    expected = policy.predict_action_chunk(observe(1), noise=start())
    for loaded in (again, old):
        chunk = loaded.predict_action_chunk(observe(1), noise=start())
        torch.testing.assert_close(chunk, expected, rtol=1e-5, atol=1e-5)
