"""Files in and out: ASTERIX CAT048/CAT034, packet captures, and the HDF5 log."""
