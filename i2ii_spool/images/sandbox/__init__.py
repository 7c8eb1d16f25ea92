"""Where strangers' pictures are decoded: processes with limits. Read pool, process, limits.

A crafted picture can exhaust the memory of its decoder, or take it over (CVE-2023-4863 was a WebP).
Each picture has a process of its own, which ends with it: a server or a worker loses a picture.
"""
