"""NVIDIA's published Cosmos models as configurations of our own modules: shapes, names, files. No network code and no numerics."""
