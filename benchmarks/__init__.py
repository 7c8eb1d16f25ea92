"""Measure the figures that the documentation quotes. Run them from the repository's root:

python -m benchmarks.spool        submits, jobs, claims and look-ups without HTTP
python -m benchmarks.http         the server: submits, status, memory
python -m benchmarks.pictures     reading and writing pictures
python -m benchmarks.gpu          edits on a GPU, beside plain diffusers
python -m benchmarks.gpu_settings each speed setting of the qwen engine on a GPU
python -m benchmarks.flops        multiplications and memory of an edit, counted without a GPU
"""

import os

# The engine sets it as well, but the benchmarks import torch before the engine runs.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
