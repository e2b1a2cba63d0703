"""Simulated worlds that make data with ground truth."""
