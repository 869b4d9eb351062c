"""Plots to flights and tracks."""
