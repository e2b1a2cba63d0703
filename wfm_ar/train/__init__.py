"""One training loop, three stages."""
