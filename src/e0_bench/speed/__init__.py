"""How long chunks and training steps take."""
