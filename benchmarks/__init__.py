"""Timing of seqcuda against torch.nn, always in pairs. The shapes are those of seqcuda/shapes.py.

- python -m benchmarks.run: the whole table, as JSON and as Markdown, under benchmarks/results/
- python -m benchmarks.plot: the picture of the speed, docs/speed.png, from those files
- python -m benchmarks.cpu: the goals of the CPU engines, each measured
- python -m benchmarks.cuda: the CUDA engines against cuDNN; python -m benchmarks.cuda.choices: who is chosen by it
- python -m pytest benchmarks: the same cases by pytest-benchmark, in groups of two
"""
