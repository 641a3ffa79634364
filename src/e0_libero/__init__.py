"""LIBERO without a download: its files wired together, and experts that demonstrate its tasks.

LeRobot's own `--env.type=libero` is the environment; here is what it needs to run offline.
"""
