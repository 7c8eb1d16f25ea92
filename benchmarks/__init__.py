"""Measure the figures that the documentation quotes. Run them from the repository's root:

python -m benchmarks.spool        submits, jobs, claims and look-ups without HTTP
python -m benchmarks.http         the server: submits, status, memory
python -m benchmarks.pictures     reading and writing pictures
python -m benchmarks.gpu          edits on a GPU, beside plain diffusers
python -m benchmarks.flops        multiplications and memory of an edit, counted without a GPU
"""
