"""The tasks this package knows, as plain data.

Names, step limits and scenes are ManiSkill 3's (https://maniskill.readthedocs.io), except those of
our own tasks: PickNamedCube-v1, PickEitherCube-v1, PassPost-v1, PassTwoPosts-v1, PushOrPickCube-v1
and PickCubeTwoStyles-v1 (see `named_cube`, `either_cube`, `pass_post`, `push_or_pick` and
`two_styles`); the instructions are ours. All tasks run at 20 Hz with the Panda arm.
"""

import difflib
from dataclasses import dataclass

CONTROL_FREQUENCY = 20


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: ManiSkill's environment id.
        instructions: what a policy may be told, in plain English; one of them in each episode.
        episode_length: limit in steps of 1/20 s.
        robot: the robot the task is defined for.
        objects: one or two attributes of the simulator that hold an object in play (an actor) or a
            pose that matters (the hole of a box).
        hidden_goal: the simulator's attribute of a goal which cameras do not see, or None.
        visible_goal: the same of one which they see, beside two objects in play.
        chosen_instruction: the simulator's attribute, an integer tensor (1,), with the index of the
            present episode's instruction; None where there is only one.
        dense_reward: whether ManiSkill defines a dense reward for it.
        ways: where a task can be done in several ways, the probability of each in demonstrations,
            in the order in which the simulator counts them (seen from the robot, the leftmost
            first); empty where there is one.
    """

    name: str
    instructions: tuple[str, ...]
    episode_length: int
    robot: str
    objects: tuple[str, ...]
    hidden_goal: str | None = None
    visible_goal: str | None = None
    chosen_instruction: str | None = None
    dense_reward: bool = True
    ways: tuple[float, ...] = ()

    @property
    def instruction(self) -> str:
        """The first instruction, which for most tasks is the only one."""
        return self.instructions[0]

    @property
    def has_goal(self) -> bool:
        """Whether the goal is hidden from the cameras and must be given as state."""
        return self.hidden_goal is not None


_ALL_TASKS = (
    Task(
        name="PickCube-v1",
        instructions=("pick up the red cube and move it to the goal position",),
        episode_length=50,
        robot="panda",
        objects=("cube",),
        hidden_goal="goal_site",
    ),
    Task(
        name="PushCube-v1",
        instructions=("push the blue cube onto the red and white target",),
        episode_length=50,
        robot="panda",
        objects=("obj", "goal_region"),
    ),
    Task(
        name="StackCube-v1",
        instructions=("pick up the red cube and place it on top of the green cube",),
        episode_length=50,
        robot="panda_wristcam",
        objects=("cubeA", "cubeB"),
    ),
    Task(
        name="PlaceSphere-v1",
        instructions=("pick up the blue ball and place it in the bin",),
        episode_length=50,
        robot="panda",
        objects=("obj", "bin"),
    ),
    Task(
        name="PegInsertionSide-v1",
        instructions=("pick up the peg and insert its orange end into the hole in the box",),
        episode_length=100,
        robot="panda_wristcam",
        objects=("peg", "box_hole_pose"),
    ),
    Task(
        name="PlugCharger-v1",
        instructions=("pick up the charger and plug it into the receptacle",),
        episode_length=200,
        robot="panda_wristcam",
        objects=("charger", "goal_pose"),
        dense_reward=False,
    ),
    Task(
        name="PickNamedCube-v1",
        instructions=("pick up the red cube", "pick up the green cube"),
        episode_length=50,
        robot="panda",
        objects=("red_cube", "green_cube"),
        chosen_instruction="named",
    ),
    Task(
        name="PickEitherCube-v1",
        instructions=("pick up a cube",),
        episode_length=50,
        robot="panda",
        objects=("left_cube", "right_cube"),
        ways=(0.5, 0.5),
    ),
    Task(
        name="PassPost-v1",
        instructions=("carry the green cube past the blue post to the red and white target",),
        episode_length=80,
        robot="panda",
        objects=("cube", "post"),
        visible_goal="target",
        ways=(0.3, 0.7),
    ),
    Task(
        name="PassTwoPosts-v1",
        instructions=("carry the green cube past both blue posts to the red and white target",),
        episode_length=110,
        robot="panda",
        objects=("cube", "post"),
        visible_goal="target",
        # All different, so that every way can be told by how often it is gone.
        ways=(0.1, 0.2, 0.3, 0.4),
    ),
    Task(
        name="PushOrPickCube-v1",
        instructions=("bring the green cube to the red and white target",),
        episode_length=60,
        robot="panda",
        objects=("cube", "target"),
        ways=(0.4, 0.6),
    ),
    Task(
        name="PickCubeTwoStyles-v1",
        instructions=("pick up the red cube",),
        episode_length=80,
        robot="panda",
        objects=("cube", "tool"),
        ways=(0.6, 0.4),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL_TASKS}


def find_task(name: str) -> Task:
    """Return the task of this name.

    Raises:
        ValueError: no such task; the message names the closest one and lists all.
    """
    if name in TASKS:
        return TASKS[name]
    closest = difflib.get_close_matches(str(name), TASKS, n=1, cutoff=0.4)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    raise ValueError(f"unknown task {name!r}.{hint} Known tasks: {', '.join(TASKS)}.")
