"""How a control says that chunks come late.

No PyTorch here: clients that live in other environments write logs of episodes, too.
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNKINGS = ("given", "naive", "blend", "ensemble", "guided", "wrong")
"""given: the policy is given the steps that are executed meanwhile; one that cannot continue any,
such as regression, acts as under naive. naive: it is not. blend: nor is it, and the new chunk fades
in over the old one. ensemble: nor is it, and a step is the mean of all chunks that reach it, as in
ACT (arXiv 2304.13705). guided: flow matching is steered towards what is left of the last chunk, see
`guided`; other policies act as under naive. wrong: it is given the steps with the opposite sign, to
see whether it goes by them or by what it sees."""


@dataclass(frozen=True)
class Delay:
    """steps: from asking to coming. execution_horizon: from asking to asking again; None for the
    policy's n_action_steps."""

    steps: int
    execution_horizon: int | None = None
    chunking: str = "given"

    @classmethod
    def parse(cls, control: str) -> Delay | None:
        """The delay of a control such as "delay=2", "delay=2 execution_horizon=4 chunking=naive";
        None for one without. Raises ValueError for what is none."""
        given: dict[str, str] = {}
        for part in filter(is_option, control.split()):
            name, _, value = part.partition("=")
            given[name] = value
        if not given:
            return None
        if "delay" not in given:
            raise ValueError(f"{control!r} gives no delay: begin with delay=STEPS")
        counts = {name: given.get(name) for name in ("delay", "execution_horizon")}
        for name, value in counts.items():
            if value is not None and not (value.isdecimal() and int(value) >= (name != "delay")):
                raise ValueError(f"{name} must be a number of control steps, got {value!r}")
        if (chunking := given.get("chunking", "given")) not in CHUNKINGS:
            raise ValueError(f"unknown chunking {chunking!r}; known: {', '.join(CHUNKINGS)}")
        horizon = counts["execution_horizon"]
        return cls(int(given["delay"]), None if horizon is None else int(horizon), chunking)


def is_option(part: str) -> bool:
    """Whether a part of a control is of its delay, and not of the environment or the input."""
    return part.partition("=")[0] in ("delay", "execution_horizon", "chunking")
