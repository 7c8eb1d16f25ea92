"""The load test of `i2ii bench`."""
