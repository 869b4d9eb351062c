"""State estimators: motion, measurement, classical filters and smoothers."""
