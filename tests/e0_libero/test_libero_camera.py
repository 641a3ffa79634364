"""LIBERO's agent view, moved on a sphere, looked at in the simulation itself."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from e0_bench.closed_loop.environments import (
    EnvironmentSettings,
    UnknownEnvironmentError,
    open_environment,
)
from e0_experts.cameras import CameraShift
from e0_libero.env import LiberoEnv

TASK, OBJECT, SIZE = "libero_object/0", "alphabet_soup_1", 96


def picture(env: LiberoEnv, place: list[float]) -> np.ndarray:
    """What the agent view sees with the object at a place (3,)."""
    inner = env.simulator.env
    thing = inner.objects_dict[OBJECT]
    inner.sim.data.set_joint_qpos(thing.joints[-1], np.array([*place, 1, 0, 0, 0]))
    inner.sim.forward()
    return env._seen(inner._get_observations(force_update=True))["pixels"]["image"].astype(int)


def where(env: LiberoEnv, place: list[float]) -> np.ndarray:
    """The middle (row, column) of what it shows of the object at a place."""
    change = np.abs(picture(env, place) - picture(env, [0.0, 0.0, -5.0])).sum(2)
    assert change.max() > 30
    return np.argwhere(change > 30).mean(0)


def looked_at(env: LiberoEnv) -> list[float]:
    """The point of the table that the agent view, where it is usually, has in its middle."""
    sim = env.simulator.env.sim
    number = sim.model.camera_name2id("agentview")
    eye, ahead = sim.data.cam_xpos[number], -sim.data.cam_xmat[number].reshape(3, 3)[:, 2]
    return list(eye + (env.simulator.env.workspace_offset[2] - eye[2]) / ahead[2] * ahead)


@pytest.mark.slow
def test_the_agent_view_moves_about_what_it_looks_at() -> None:
    with closing(LiberoEnv(TASK, image_size=SIZE)) as env:

        def shifted(shift: CameraShift | None) -> None:
            """The episode anew, with the camera elsewhere."""
            env._shift = shift  # a second environment takes five seconds
            env.reset(seed=1)

        shifted(None)
        target, usual = looked_at(env), env.render().astype(int)
        near, raised = ([*target[:2], target[2] + height] for height in (0.08, 0.17))
        assert where(env, raised)[0] < where(env, near)[0] - 3
        shifted(CameraShift())
        assert np.abs(env.render().astype(int) - usual).mean() < 0.5
        shifted(CameraShift(azimuth=25, elevation=10, radius=1.2))
        assert np.abs(env.render().astype(int) - usual).mean() > 10
        np.testing.assert_allclose(looked_at(env), target, atol=1e-3)
        assert np.abs(where(env, near) - SIZE / 2).max() < 10
        low, high = where(env, near), where(env, raised)
        assert high[0] < low[0] - 3 and abs(high[1] - low[1]) < 2, "the edge stays level"
        shifted(CameraShift(roll=90))
        low, high = where(env, near), where(env, raised)
        # A camera turned clockwise shows what is above on the left; these pictures are mirrored.
        assert high[1] > low[1] + 3 and abs(high[0] - low[0]) < 2


@pytest.mark.slow
def test_unmoved_it_is_lerobots_libero() -> None:
    options = {
        "libero": (f"observation_height={SIZE}", f"observation_width={SIZE}"),
        "libero_camera": (f"image_size={SIZE}",),
    }
    seen: dict[str, Any] = {}
    for kind, given in options.items():
        environment = open_environment(EnvironmentSettings(kind, given), TASK)
        reset = environment.reset(3)
        step = environment.step(np.full((1, 7), 0.3))
        told = (environment.instruction, environment.step_limit, step.success)
        seen[kind] = (reset["pixels"], step.observation["pixels"], told)
    for theirs, ours in zip(seen["libero"][:2], seen["libero_camera"][:2], strict=True):
        for name in ("image", "image2"):
            turned = theirs[name][:, ::-1, ::-1].astype(int)
            assert np.abs(turned - ours[name]).max() < 6
    assert seen["libero"][2] == seen["libero_camera"][2]


def test_what_is_no_shift_is_refused() -> None:
    settings = EnvironmentSettings("libero_camera", ("camera_shift=5",))
    with pytest.raises(UnknownEnvironmentError, match="a camera's shift is azimuth,elevation"):
        settings.config(TASK)
    with (
        closing(LiberoEnv(TASK, camera_shift=CameraShift(elevation=80))) as env,
        pytest.raises(ValueError, match="over a pole"),
    ):
        env.reset(seed=0)
