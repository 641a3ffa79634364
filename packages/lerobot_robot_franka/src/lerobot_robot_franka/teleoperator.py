"""What the teleoperators here have in common."""

from __future__ import annotations

from typing import Any

from lerobot.teleoperators import Teleoperator


class PlainTeleoperator(Teleoperator):
    """A teleoperator that needs no calibration, has no settings to send, and takes no feedback."""

    @property
    def feedback_features(self) -> dict[str, type]:
        """There is none."""
        return {}

    @property
    def is_calibrated(self) -> bool:
        """There is nothing to calibrate."""
        return True

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """There is none to send."""
