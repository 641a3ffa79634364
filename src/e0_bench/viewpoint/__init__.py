"""Warped pictures against those of cameras that really moved, and what warping costs."""
