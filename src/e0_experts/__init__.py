"""What the scripted experts of all simulators are made of: poses, waypoints, and the way there."""
