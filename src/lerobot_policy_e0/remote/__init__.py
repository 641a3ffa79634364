"""`--policy.type=remote`: a policy that acts by a server (`e0 serve`), for LeRobot's programs."""
