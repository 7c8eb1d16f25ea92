"""What the README quotes, measured: run each from the repository's root.

python -m benchmarks.spool        submits, jobs, claims and look-ups without HTTP
python -m benchmarks.http         the server: submits, status, memory
python -m benchmarks.pictures     reading and writing pictures
"""
