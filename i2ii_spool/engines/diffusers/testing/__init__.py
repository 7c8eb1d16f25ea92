"""Tiny models of random weights, on which the real code runs on a CPU."""
