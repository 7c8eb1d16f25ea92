"""The worker: one process, one GPU, one job at a time. Read daemon, job_run, heartbeat."""
