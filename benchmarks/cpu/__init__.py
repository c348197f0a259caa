"""The goals of the CPU engines, each measured: ``python -m benchmarks.cpu``.

One file for each section: what is timed, what is wanted of it, and what the page shows.
"""
