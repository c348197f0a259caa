"""What the example programs share.

- cli: the parser, the common arguments, `fail` (one sentence, exit status 2)
- backends: torch.nn's or seqcuda's layers, by name
- training: `Task`, what a program learns, and `Training`, the one loop
- loop: the progress bar, Ctrl-C, a clock that waits for the device
- text, batches, ragged: files, vocabularies, batches by length, sequences of different lengths through a layer
- generated: small data sets for programs that are run without --data
- checkpoint: save and resume
- agreement: are two implementations equal within rounding?
- report: the end of a program: tables, the comparison, metrics.json, loss.png
- files, plots: atomic writing, pictures as PNG
"""
