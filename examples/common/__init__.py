"""What the example programs share.

- cli: the parser, the common arguments, `fail` (one sentence, exit status 2)
- backends: torch.nn's or seqcuda's layers, by name
- text: reading a text file, characters to numbers, batches of a long text
- loop: the progress bar, Ctrl-C, a clock that waits for the device
- checkpoint: save and resume
- agreement: are two implementations equal within rounding?
- files: atomic writing, metrics as JSON
- plots: pictures as PNG
"""
