"""Authentication by tokens, and the access check of jobs."""
