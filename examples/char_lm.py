"""The language model of characters that `make demo` trains: language_model.py, by the name of what most come for.

python examples/char_lm.py --backend both --text book.txt
"""

from common import cli
from language_model import main

if __name__ == "__main__":
    cli.run(main)
