"""The worker: one process, one GPU, one job at a time."""
