"""Learned estimators, and how trackers are loaded by name, file or folder."""
