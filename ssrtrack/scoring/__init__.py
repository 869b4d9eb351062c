"""Accuracy, consistency and bounds."""
