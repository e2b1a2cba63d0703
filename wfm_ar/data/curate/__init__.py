"""Raw recordings to a clean data set: shots, what is worth keeping, near-duplicates, one size and rate, captions."""
