"""Objectives on a toy problem whose exact posterior is known."""
