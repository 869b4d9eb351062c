"""The evaluation of one log over many: local processes or a Dask cluster, one result file per log."""
