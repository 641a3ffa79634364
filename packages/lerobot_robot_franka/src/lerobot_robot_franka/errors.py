"""What can go wrong between a policy and an arm."""


class FrankaError(RuntimeError):
    """The arm or the gripper does not do what it was told; the arm holds."""


class ConnectError(FrankaError, ConnectionError):
    """The arm cannot be reached or does not let itself be controlled; nothing has moved."""


class ControlLostError(FrankaError):
    """The arm stopped by itself: a reflex, the user's stop, a network that stalled. Says which; it
    moves no more until `Franka.recover`."""


class UnsafeActionError(FrankaError, ValueError):
    """An action that the arm must not be sent; nothing of it was."""


class GripperCommandError(FrankaError):
    """The gripper did not carry out one command; it takes others."""


def without_frames(error: FrankaError) -> FrankaError:
    """The same error, anew: without the traceback and the context of this one, whose frames would
    keep the connection to an arm open as long as the error is kept."""
    return type(error)(str(error))
