"""Inverse dynamics: from two frames to the actions that lie between them."""
