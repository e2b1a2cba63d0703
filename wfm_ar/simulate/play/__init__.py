"""A world in the browser: a page to drive, prompt, rewind, branch and record it, and the server behind it (server.py)."""
