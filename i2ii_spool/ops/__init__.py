"""What operators run beside the service: doctor, installer, supervisor, top, load test."""
