"""One module for each experiment that a document of this repository reports."""
