"""What the processes need of the machine: GPUs, systemd, the journal."""
