"""The report of a load test as a page: one file, that asks no other host and runs no script."""
