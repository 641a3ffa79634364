"""VLABench's tasks for policies that `e0 serve` serves.

It runs in VLABench's environment, apart from E0's. Of E0 it imports `e0_server.client`, the log of
`e0 bench` and what writes files, none of which needs PyTorch.
"""
