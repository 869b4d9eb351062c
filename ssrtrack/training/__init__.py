"""Training of trackers: endless simulated flights or logs, the loop, exact resume."""
