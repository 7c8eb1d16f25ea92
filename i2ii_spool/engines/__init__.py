"""The engines, which edit pictures. Only the worker uses them."""
