"""Importing this module wires LIBERO: for processes that import nothing else of ours."""

from e0_libero.assets import wire_what_is_installed

wire_what_is_installed()
