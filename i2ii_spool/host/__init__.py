"""Interfaces to the host: GPUs, systemd, the journal."""
