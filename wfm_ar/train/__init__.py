"""One training loop, four stages."""
