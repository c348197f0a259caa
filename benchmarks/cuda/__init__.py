"""The CUDA engines against cuDNN: ``python -m benchmarks.cuda``; who is chosen by its results: `.choices`."""
