"""ManiSkill's cameras in a scene: placing them, and reading pictures and depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np

from e0_experts.cameras import Camera
from e0_maniskill.cameras import HAND_CAMERA

FARTHEST = 65_535
"""The largest depth in millimetres that is told; what lies beyond is told as 0."""

_HAND_CAMERA_LINK = "camera_link"

Sensors = Mapping[str, Any]


def place_sensors(simulator: Any, cameras: Mapping[str, Camera], hand: Camera | None) -> Sensors:
    """Put fixed cameras, and one on the wrist, into a freshly built scene; ManiSkill's sensors by
    name."""
    import sapien
    from mani_skill.sensors.camera import Camera as Sensor
    from mani_skill.sensors.camera import CameraConfig

    def sensor(name: str, camera: Camera, pose: Any, mount: Any = None) -> Any:
        config = CameraConfig(
            uid=name,
            pose=pose,
            width=camera.width,
            height=camera.height,
            fov=camera.field_of_view,
            mount=mount,
        )
        return Sensor(config, simulator.scene)

    sensors = {name: sensor(name, camera, camera_pose(camera)) for name, camera in cameras.items()}
    if hand is not None:
        link = simulator.agent.robot.links_map[_HAND_CAMERA_LINK]
        sensors[HAND_CAMERA] = sensor(HAND_CAMERA, hand, sapien.Pose(), link)
    return sensors


def camera_pose(camera: Camera) -> Any:
    """SAPIEN's pose of a camera: x looks ahead, so a roll turns about x."""
    import sapien
    from mani_skill.utils.sapien_utils import look_at

    half = np.radians(camera.roll) / 2
    roll = sapien.Pose(q=[np.cos(half), np.sin(half), 0.0, 0.0])
    return look_at(camera.eye, camera.target).sp * roll


def take_pictures(simulator: Any, sensors: Sensors) -> dict[str, np.ndarray]:
    """Camera name -> uint8 (height, width, 3) of the scene as it is now."""
    for hidden in simulator._hidden_objects:
        hidden.hide_visual()
    pictures = {}
    with _without_unseen(simulator, sensors):
        simulator.scene.update_render(update_human_render_cameras=False)
        for name, sensor in sensors.items():
            sensor.capture()
            picture = sensor.get_obs(rgb=True, depth=False, position=False, segmentation=False)
            pictures[name] = picture["rgb"][0].cpu().numpy().copy()
    return pictures


@contextmanager
def _without_unseen(simulator: Any, sensors: Sensors) -> Iterator[None]:
    """Within this context, bodies that no camera can see are not drawn.

    Most of a Panda's 135 000 triangles lie outside of a camera that looks at the table; on a CPU,
    drawing them in vain is up to a third of a picture's cost.
    """
    from sapien.render import RenderBodyComponent

    found = (
        entity.find_component_by_type(RenderBodyComponent)
        for entity in simulator.scene.sub_scenes[0].entities
    )
    shown = [body for body in found if body is not None and body.visibility > 0]
    low, high = np.stack([body.get_global_aabb_fast() for body in shown], axis=1)
    seen = np.zeros(len(shown), bool)
    for sensor in sensors.values():
        seen |= _may_see(sensor.camera._render_cameras[0], low, high)
    unseen = [(body, body.visibility) for body, s in zip(shown, seen, strict=True) if not s]
    for body, _ in unseen:
        body.visibility = 0.0
    try:
        yield
    finally:
        for body, visibility in unseen:
            body.visibility = visibility


def _may_see(camera: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether boxes, from a low corner (N, 3) to a high one, may reach into a picture: (N,). False
    only for a box that lies wholly behind one side of the pyramid of sight."""
    upper = np.array(list(product((0, 1), repeat=3)), bool)[:, None]
    corners = np.where(upper, high, low)  # (8, N, 3)
    to_pixels = camera.get_intrinsic_matrix() @ camera.get_extrinsic_matrix()
    across, down, ahead = np.moveaxis(corners @ to_pixels[:, :3].T + to_pixels[:, 3], -1, 0)
    right, bottom = camera.width * ahead, camera.height * ahead
    beyond = np.stack([-across, across - right, -down, down - bottom, -ahead]) > 0
    return np.logical_not(beyond.all(axis=1).any(axis=0))


def measure_depth(sensors: Sensors) -> dict[str, np.ndarray]:
    """Camera name -> uint16 (height, width) millimetres, of the pictures just taken."""
    depths = {}
    for name, sensor in sensors.items():
        measured = sensor.get_obs(rgb=False, depth=True, position=False, segmentation=False)
        millimetres = measured["depth"][0, ..., 0].cpu().numpy().astype(np.int64)
        depths[name] = np.where(millimetres > FARTHEST, 0, millimetres).astype(np.uint16)
    return depths


def remove_hand_camera_mesh(simulator: Any) -> None:
    """Take the picture of the wrist camera's housing out of the scene; its collision shape stays.

    The mesh has 425 000 triangles, more than all else together, and doubles the cost of a picture.
    """
    from sapien.render import RenderBodyComponent

    link = simulator.agent.robot.links_map.get(_HAND_CAMERA_LINK)
    if link is None:
        return
    entity = link._objs[0].entity
    body = entity.find_component_by_type(RenderBodyComponent)
    if body is not None:
        entity.remove_component(body)
