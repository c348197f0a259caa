"""Small data sets that are generated, for programs that are run without --data: the same for the same seed."""

from __future__ import annotations

import math
import random

import torch

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


# Words that are a noun in one place and a verb in another stand in both lists: their tag is known by their neighbours.
LEXICON = {
    "DET": "the a every this that some".split(),
    "ADJ": "light open old quiet cold dry clean warm".split(),
    "NOUN": "light dry run watch fish walk plant book cook harbour keeper lamp".split(),
    "VERB": "light open run watch fish walk plant book cook clean mend find".split(),
    "AUX": "can will must may".split(),
    "ADV": "often never slowly again".split(),
    "ADP": "near behind with under".split(),
    "PRON": "they we you".split(),
}
CLAUSES = (
    "DET NOUN AUX VERB DET NOUN", "PRON VERB DET ADJ NOUN", "PRON AUX ADV VERB DET NOUN ADP DET NOUN",
    "DET ADJ NOUN AUX VERB ADV", "PRON ADV VERB ADP DET NOUN", "DET NOUN ADP DET NOUN AUX VERB PRON",
)  # fmt: skip


def tagged(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sentences with a tag for each word."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        tags = draw.choice(CLAUSES).split()
        if draw.random() < 0.5:
            tags += ["CCONJ", *draw.choice(CLAUSES).split()]
        words = [draw.choice(LEXICON[tag]) if tag in LEXICON else draw.choice(("and", "but")) for tag in tags]
        sentences.append(([*words, "."], [*tags, "PUNCT"]))
    return sentences


NOUNS = (
    ("dog", "Hund", "m"), ("man", "Mann", "m"), ("bird", "Vogel", "m"), ("tree", "Baum", "m"), ("cat", "Katze", "f"),
    ("woman", "Frau", "f"), ("lamp", "Lampe", "f"), ("flower", "Blume", "f"), ("house", "Haus", "n"),
    ("child", "Kind", "n"), ("book", "Buch", "n"), ("horse", "Pferd", "n"),
)  # fmt: skip
ADJECTIVES = (("small", "klein"), ("old", "alt"), ("red", "rot"), ("young", "jung"), ("quiet", "still"))
VERBS = (
    ("sees", "see", "sieht", "sehen"), ("finds", "find", "findet", "finden"), ("loves", "love", "liebt", "lieben"),
    ("draws", "draw", "zeichnet", "zeichnen"), ("buys", "buy", "kauft", "kaufen"),
)  # fmt: skip
MODALS = (("can", "kann"), ("will", "wird"), ("must", "muss"))
TIMES = (("today", "heute"), ("in the morning", "am Morgen"), ("tomorrow", "morgen"))
NOMINATIVE = {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e")}  # article, ending of the adjective
ACCUSATIVE = {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")}
INDEFINITE = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}  # accusative


def pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences in English and German. German puts the verb at the end after "kann", and before the subject after
    "heute", and the form of article and adjective depends on the noun behind them."""
    draw = random.Random(seed)

    def noun_phrase(article: str, forms: dict) -> tuple[str, str]:
        english, german, gender = draw.choice(NOUNS)
        determiner, ending = forms[gender]
        if draw.random() < 0.5:
            adjective, stem = draw.choice(ADJECTIVES)
            return f"{article} {adjective} {english}".replace(
                "a old", "an old"
            ), f"{determiner} {stem}{ending} {german}"
        return f"{article} {english}", f"{determiner} {german}"

    def sentence() -> tuple[str, str]:
        subject = noun_phrase("the", NOMINATIVE)
        thing = noun_phrase("a", INDEFINITE) if draw.random() < 0.5 else noun_phrase("the", ACCUSATIVE)
        finite, infinitive, endet, enden = draw.choice(VERBS)
        if draw.random() < 0.5:
            modal, german_modal = draw.choice(MODALS)
            english, verb, last = f"{subject[0]} {modal} {infinitive} {thing[0]}", german_modal, f" {enden}"
        else:
            english, verb, last = f"{subject[0]} {finite} {thing[0]}", endet, ""
        if draw.random() < 0.5:
            when, wann = draw.choice(TIMES)
            english, german = f"{when} {english}", f"{wann} {verb} {subject[1]} {thing[1]}{last}"
        else:
            german = f"{subject[1]} {verb} {thing[1]}{last}"
        return tuple(line[0].upper() + line[1:] + "." for line in (english, german))

    return tuple(map(list, zip(*(sentence() for _ in range(count)), strict=True)))


def series(hours: int, seed: int) -> tuple[list[str], torch.Tensor]:
    """Hourly values of a load, a temperature and an oil temperature, which follows the load six hours later:
    names, (hours, 3)."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(hours, dtype=torch.float64)
    day, week, season = (2 * math.pi * t / period for period in (24, 168, 2000))
    wander = torch.randn(3, hours, generator=generator, dtype=torch.float64)
    for k in range(1, hours):
        wander[:, k] = 0.97 * wander[:, k - 1] + 0.2 * wander[:, k]
    load = 3 * (1 + 0.4 * season.sin()) * day.sin() + week.cos() + wander[0]
    temperature = 8 * season.sin() + 4 * (day - 2).sin() + 2 * wander[1]
    oil = 0.5 * temperature + 1.5 * load.roll(6).clamp(min=-1) + wander[2]
    return ["load", "temperature", "oil"], torch.stack([load, temperature, oil], dim=1)


def utterances(count: int, seed: int, sounds: int = 6, channels: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sequences of noisy frames (T, channels) with the sound that each belongs to, (T,). Two and two sounds begin
    alike and part after two frames, so that the first frames can be told by the next ones only."""
    generator = torch.Generator().manual_seed(seed)
    draw = random.Random(seed)
    begin = torch.randn(sounds // 2, channels, generator=generator).repeat_interleave(2, dim=0)
    rest = torch.randn(sounds, channels, generator=generator)
    found = []
    for _ in range(count):
        frames, labels = [], []
        for _ in range(draw.randint(3, 8)):
            sound, length = draw.randrange(sounds), draw.randint(4, 8)
            frames += [begin[sound] if k < 2 else rest[sound] for k in range(length)]
            labels += [sound] * length
        x = torch.stack(frames)
        found.append((x + 0.7 * torch.randn(x.shape, generator=generator), torch.tensor(labels)))
    return found
