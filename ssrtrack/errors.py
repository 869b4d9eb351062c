"""Every error a user can cause, as one family: the message says what came, what was expected and what to do."""


class SsrtrackError(Exception):
    """Base of all errors meant for the user; the command line prints it as one line and exits with 1."""


class DataError(SsrtrackError):
    """A table's columns are missing, of unequal length, or outside their physical range."""


class LogError(SsrtrackError):
    """An HDF5 log cannot be read or written: wrong version, missing group, wrong unit, truncated, incomplete."""


class AsterixError(SsrtrackError):
    """ASTERIX or capture input cannot be used at all, or a value does not fit the item that should carry it."""


class ScenarioError(SsrtrackError):
    """A scenario or radar TOML is not valid."""


class EstimatorError(SsrtrackError):
    """An estimator is unknown, or was given parameters or measurements it cannot use."""


class ScoringError(SsrtrackError):
    """There is nothing to score, or what is there cannot be scored as asked."""


class BatchError(SsrtrackError):
    """A run over many logs cannot start or go on: no logs, a folder that holds results, no scheduler."""


class TrainingError(SsrtrackError):
    """A training cannot start or go on: nothing to train on, a folder that holds a run, no such device, divergence."""


class CheckpointError(SsrtrackError):
    """Saved weights or a saved training are damaged, foreign, of another version, or do not fit."""
