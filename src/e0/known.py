"""Refusing names that nothing has."""

from __future__ import annotations


def require_known(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError listing the known values."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
