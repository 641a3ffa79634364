"""Measuring: closed loop, comparisons, the demo, the token lab, speed, moved cameras."""
