"""What the scripted experts of all simulators share: poses, waypoints and the way there; cameras;
episodes, and how they are collected."""
