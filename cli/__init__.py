"""Terminal commands: each parses, calls one library function and prints where the result is."""
