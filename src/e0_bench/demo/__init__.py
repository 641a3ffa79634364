"""From nothing to a trained policy and a page about it: `e0 demo`."""
