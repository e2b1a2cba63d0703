"""Frame predictor: the next frame from the last two and the actions, as pixels. See network.py."""
