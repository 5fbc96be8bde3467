"""raydae trains image denoisers on Ray."""
