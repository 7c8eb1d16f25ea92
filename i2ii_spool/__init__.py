"""i2ii: a multi-GPU image-editing service whose queue is a directory tree."""

__version__ = "0.1.0"
