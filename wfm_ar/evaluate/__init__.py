"""Measuring a world: metrics of frames, action and text following, reports. `evaluate.evaluate` is the way in."""
