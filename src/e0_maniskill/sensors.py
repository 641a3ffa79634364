"""ManiSkill's cameras in a scene: placing them, and reading pictures and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from e0_maniskill.cameras import HAND_CAMERA, Camera

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
    simulator.scene.update_render(update_human_render_cameras=False)
    pictures = {}
    for name, sensor in sensors.items():
        sensor.capture()
        picture = sensor.get_obs(rgb=True, depth=False, position=False, segmentation=False)
        pictures[name] = picture["rgb"][0].cpu().numpy().copy()
    return pictures


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
