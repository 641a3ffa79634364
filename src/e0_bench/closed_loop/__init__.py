"""Policies in LeRobot environments, episode by episode: `e0 bench`."""
