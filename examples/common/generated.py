"""Small data sets that are generated, for programs that are run without --data: the same for the same seed."""

from __future__ import annotations

import random

GOOD = ("brilliant charming clever delightful funny gripping honest inventive lovely moving remarkable sharp tender "
        "thrilling warm witty").split()  # fmt: skip
BAD = ("awful boring clumsy dreary dull empty flat hollow lifeless messy painful pointless silly stale tedious "
       "tiresome").split()  # fmt: skip
SUBJECTS = ("the film", "the acting", "the plot", "this comedy", "the second half", "the script", "her performance",
            "the ending", "every scene", "the director's touch", "the soundtrack", "this remake")  # fmt: skip
PLAIN = ("is {}", "is very {}", "feels {} to me", "was {} from start to finish", "turns out {}")
TURNED = ("is not {}", "is never {}", "is hardly {}", "was anything but {}")
JOINED = (" and ", " , and ", " ; ")
OVERRULED = (" , but all in all ", " , and yet in the end ", " ; still , on the whole ")


def reviews(count: int, seed: int) -> tuple[list[str], list[str]]:
    """`count` favourable and as many unfavourable sentences about films. A word alone does not tell: it may be
    negated ("is not dull"), and the last clause may overrule the first."""
    draw = random.Random(seed)

    def clause(good: bool) -> str:
        turned = draw.random() < 0.3
        words = GOOD if good != turned else BAD
        return f"{draw.choice(SUBJECTS)} {draw.choice(TURNED if turned else PLAIN).format(draw.choice(words))}"

    def sentence(good: bool) -> str:
        if draw.random() < 0.5:
            return clause(good)
        overruled = draw.random() < 0.5
        return clause(good != overruled) + draw.choice(OVERRULED if overruled else JOINED) + clause(good)

    return tuple([sentence(good) for _ in range(count)] for good in (True, False))
