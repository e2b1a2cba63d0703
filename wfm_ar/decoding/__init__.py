"""Foreign video and picture files to pixels, in a child process that can be killed: see pool.py (our side), child.py (its side)."""
