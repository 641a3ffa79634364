"""A copy of VLABench with small generated meshes in place of the assets that it downloads.

    python stand_ins.py path/to/VLABench outputs/vlabench_stand_ins
    PYTHONPATH=outputs/vlabench_stand_ins ...

VLABench's own code builds, steps and renders its tasks with them, so that a client can be tried
where the assets cannot be had. What things look like, weigh and how they can be gripped is made up:
no number measured on stand-ins says anything about a policy.

Files of VLABench become links. What is generated: a floor for every scene, and a mesh for every
object of the classes below; tasks that need others (cards, tubes, doors, textures) do not build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from e0_vlabench.installation import listed_objects

TABLE_HEIGHT = 0.78  # metres: where the episodes of the tracks put the things on it
PLATE_RADIUS, PLATE_HEIGHT = 0.12, 0.02
BOX_HALF, WALL = 0.12, 0.01
CUBE_HALF = 0.02
TRACK = "track_1_in_distribution"


def build_stand_ins(checkout: Path, out: Path) -> Path:
    """Make `out/VLABench`, importable with `out` on the path, of a checkout of VLABench.

    Raises FileNotFoundError if there is no VLABench, FileExistsError if `out` holds something."""
    package = checkout / "VLABench"
    if not (package / "configs/constant.py").is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of VLABench: no VLABench/configs in it")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds something already; choose a new directory")
    root = out / "VLABench"
    for file in package.rglob("*"):
        if file.is_file():
            link = root / file.relative_to(package)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    _write_scenes(root)
    _write_objects(root)
    return root


def _write_scenes(root: Path) -> None:
    scenes = json.loads((root / "configs/scene_config.json").read_text())
    for path in ["default/empty.xml", *(scene["xml_path"] for scene in scenes.values())]:
        _write(root / "assets/scenes" / path, SCENE)


def _write_objects(root: Path) -> None:
    """Two of each directory that VLABench lists: it takes half as seen and half as unseen."""
    for folder in listed_objects(root):
        if (root / "assets" / folder).exists():
            continue
        for number in (1, 2):
            shape = _shape_of_folder(folder)
            _write_object(root / f"assets/{folder}/stand_in_{number}.xml", shape)
    for path, kind in sorted(set(_named_objects(root))):
        if kind in SHAPES:
            _write_object(root / "assets" / path, SHAPES[kind])


def _shape_of_folder(folder: str) -> str:
    words = {"plates": "plate", "tray": "plate", "boxes": "box", "basket": "box"}
    return next((shape for word, shape in words.items() if word in folder), "cube")


def _named_objects(root: Path) -> Iterator[tuple[str, str]]:
    """The files and classes of the things in the tasks' own settings and in the first track."""
    tasks = json.loads((root / "configs/task_config.json").read_text())
    track = json.loads((root / f"configs/evaluation/tracks/{TRACK}.json").read_text())
    every = [*tasks.values(), *(episode for some in track.values() for episode in some)]
    for config in every:
        for part in config.get("task", {}).get("components", []):
            if part.get("xml_path") and isinstance(part.get("class"), str):
                yield part["xml_path"], part["class"]


SHAPES = {
    "Table": "table",
    "Plate": "plate",
    "FlatContainer": "plate",
    "CommonContainer": "box",
    "Fruit": "cube",
    "Toy": "cube",
}


def _write_object(path: Path, shape: str) -> None:
    if shape == "table":
        _write(path, TABLE)
        return
    mesh, body = {
        "plate": (_prism(PLATE_RADIUS, 0, PLATE_HEIGHT, 24), PLATE),
        "box": (_prism(BOX_HALF, 0, WALL, 24), BOX),
        "cube": (_prism(2**0.5 * CUBE_HALF, -CUBE_HALF, CUBE_HALF, 4), CUBE),
    }[shape]
    _write(path, body.format(mesh=f"{path.stem}.obj"))
    _write(path.with_suffix(".obj"), mesh)


def _write(path: Path, text: str) -> None:
    """Write a file where there is none: what VLABench has is a link, and stays as it is."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _prism(radius: float, bottom: float, top: float, sides: int) -> str:
    """An upright prism around the z axis, as the text of an OBJ file; lengths in metres."""
    turns = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rim = np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)
    points = [(x, y, z) for z in (bottom, top) for x, y in rim] + [(0, 0, bottom), (0, 0, top)]
    faces = []
    for side in range(sides):
        following = (side + 1) % sides
        faces += _square(side, following, sides)
        faces += [(2 * sides, following, side), (2 * sides + 1, sides + side, sides + following)]
    return _obj(np.array(points), faces)


def _square(first: int, second: int, above: int) -> list[tuple[int, int, int]]:
    """Two triangles between two points and those above them."""
    return [(first, second, second + above), (first, second + above, first + above)]


def _obj(points: np.ndarray, faces: list[tuple[int, int, int]]) -> str:
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in points]
    return "\n".join(lines + ["f " + " ".join(str(i + 1) for i in face) for face in faces]) + "\n"


SCENE = """<mujoco>
  <asset><material name="grey" rgba=".6 .6 .6 1"/></asset>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1"/>
    <geom name="floor" type="plane" size="20 20 .1" material="grey"/>
  </worldbody>
</mujoco>
"""
TABLE = f"""<mujoco>
  <asset><material name="wood" rgba=".6 .45 .3 1"/></asset>
  <worldbody>
    <body name="table_vis">
      <geom type="box" size=".6 .3 {TABLE_HEIGHT / 2}" pos="0 0 {TABLE_HEIGHT / 2}"
        material="wood" mass="100"/>
    </body>
    <site group="3" pos="-.6 -.3 {TABLE_HEIGHT}"/>
    <site group="3" pos=".6 .3 {TABLE_HEIGHT}"/>
  </worldbody>
</mujoco>
"""
PLATE = f"""<mujoco>
  <asset><mesh name="plate" file="{{mesh}}"/></asset>
  <worldbody>
    <geom type="mesh" mesh="plate" rgba=".9 .9 .9 1" mass=".5"/>
    <site name="horizontal_radius_site" pos="{PLATE_RADIUS} 0 0"/>
    <site group="2" pos="0 0 .1"/>
  </worldbody>
</mujoco>
"""
BOX = f"""<mujoco>
  <asset><mesh name="bottom" file="{{mesh}}"/></asset>
  <worldbody>
    <geom type="mesh" mesh="bottom" rgba=".7 .3 .3 1" mass=".5"/>
    <site group="3" pos="-{BOX_HALF} -{BOX_HALF} 0"/>
    <site group="3" pos="{BOX_HALF} {BOX_HALF} .1"/>
    <site group="2" pos="0 0 .15"/>
  </worldbody>
</mujoco>
"""
CUBE = """<mujoco>
  <asset><mesh name="thing" file="{mesh}"/></asset>
  <worldbody>
    <geom type="mesh" mesh="thing" rgba=".9 .8 .2 1" mass=".05" friction="2 .1 .01"/>
    <site group="4"/>
  </worldbody>
</mujoco>
"""

if __name__ == "__main__":
    print(build_stand_ins(Path(sys.argv[1]), Path(sys.argv[2])))
