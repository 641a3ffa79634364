"""What this machine can render, and simulation without rendering.

SAPIEN draws with Vulkan: on a GPU, or on the CPU with Mesa's lavapipe (Mesa 23 or newer; older
versions crash the process). Whether it works shows only when a picture is taken, so a picture is
taken once, in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

STATE_ONLY_VARIABLE = "E0_STATE_ONLY"

_PROBE_SECONDS = 120

_assumed_backend: str | None = None

# Draws a lit box in front of a camera; a driver that draws nothing leaves the picture black.
_PROBE = """
import sys
import sapien
sapien.render.set_camera_shader_dir("minimal")
scene = sapien.Scene(
    [sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem(sapien.Device(sys.argv[1]))]
)
scene.set_ambient_light([1, 1, 1])
builder = scene.create_actor_builder()
builder.add_box_visual(half_size=[0.2, 0.2, 0.2])
builder.set_initial_pose(sapien.Pose([1, 0, 0]))
builder.build_kinematic("box")
camera = scene.add_camera("probe", 32, 32, 1.0, 0.01, 10)
scene.update_render()
camera.take_picture()
if not camera.get_picture("Color")[16, 16, :3].any():
    sys.exit("the picture is black")
"""


def rendering_available() -> tuple[bool, str]:
    """Whether SAPIEN can take pictures here, and why (not).

    The answer is found in a subprocess, because a bad driver ends the process that uses it, and is
    kept for this process' life. `E0_STATE_ONLY=1` in the environment means no.
    """
    backend, reason = _find_backend(os.environ.get(STATE_ONLY_VARIABLE) == "1")
    return backend is not None, reason


def render_backend() -> str:
    """ManiSkill's name for the device to render on: "gpu" where that works, else "cpu".

    A CUDA device alone does not decide: containers often have CUDA but no Vulkan driver for it.

    Raises:
        RuntimeError: nothing here can render.
    """
    backend, reason = _find_backend(os.environ.get(STATE_ONLY_VARIABLE) == "1")
    if backend is None:
        raise RuntimeError(
            f"cameras cannot be rendered on this machine: {reason}. Install a Vulkan driver "
            "(Mesa 23 or newer: packages mesa-vulkan-drivers and libvulkan1), or use "
            "state_only=True."
        )
    return backend


def assume_render_backend(backend: str) -> None:
    """Take the answer found by another process of this machine, instead of probing again."""
    global _assumed_backend
    _assumed_backend = backend


@contextmanager
def allow_no_vulkan() -> Iterator[None]:
    """Within this context ManiSkill scenes can be built without any Vulkan driver.

    With `render_backend="none"` ManiSkill builds no visuals, yet its scene code still creates
    materials for them, and SAPIEN's material needs a Vulkan device. Here a material is an object
    that does nothing. It is put only into the modules of sapien and mani_skill that hold the real
    class, and taken out again afterwards, so that other environments of this process can render.
    """
    import mani_skill.envs  # noqa: F401  (loads every module that may hold the class)
    import sapien.render

    real = sapien.render.RenderMaterial
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("sapien", "mani_skill")
        and vars(module).get("RenderMaterial") is real
    ]
    for module in holders:
        vars(module)["RenderMaterial"] = _NoMaterial
    try:
        yield
    finally:
        for module in holders:
            vars(module)["RenderMaterial"] = real


class _NoMaterial:
    """Takes every argument, attribute and method call of a material, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@cache
def keep_shaders_compiled(backend: str) -> Any:
    """Keep one camera alive for this process' life, and with it the compiled shaders.

    SAPIEN drops its shaders together with the last camera that uses them, and lavapipe needs seven
    seconds to compile them again: without this every new environment would pay that.
    """
    import sapien

    sapien.render.set_camera_shader_dir("minimal")
    device = sapien.Device("cuda" if backend == "gpu" else backend)
    scene = sapien.Scene([sapien.render.RenderSystem(device)])
    camera = scene.add_camera("keep_shaders", 1, 1, 1.0, 0.01, 10.0)
    scene.update_render()
    camera.take_picture()
    return scene


@cache
def _find_backend(state_only: bool) -> tuple[str | None, str]:
    if state_only:
        return None, f"{STATE_ONLY_VARIABLE}=1 is set"
    if _assumed_backend is not None:
        return _assumed_backend, "found by the process that started this one"
    failures = []
    for backend, device in _candidates():
        failure = _probe(device)
        if failure is None:
            return backend, f"SAPIEN took a picture on {device!r}"
        failures.append(f"{device}: {failure}")
    return None, "; ".join(failures)


def _candidates() -> list[tuple[str, str]]:
    import torch

    cpu = [("cpu", "cpu")]
    return [("gpu", "cuda"), *cpu] if torch.cuda.is_available() else cpu


def _probe(device: str) -> str | None:
    """Take a picture on this SAPIEN device in a subprocess; return what went wrong, or None."""
    command = [sys.executable, "-c", _PROBE, device]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no picture within {_PROBE_SECONDS} s"
    if result.returncode == 0:
        return None
    if result.returncode < 0:
        return f"the driver ended the process with signal {-result.returncode}"
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"
