"""Simulated truth and radar plots."""
