"""Scan kernels and their plain references (see README.md beside this file)."""
