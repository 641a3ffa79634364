"""What of a dataset trains badly, said before it is trained on: `e0 doctor`."""
