"""Recognises units: words after a number, and symbols, in one form for all their spellings."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SYMBOLS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₩": "won",
           "₽": "ruble", "₺": "lira", "₫": "dong", "₦": "naira", "₱": "peso", "₪": "shekel",
           "₴": "hryvnia", "₿": "bitcoin"}  # fmt: skip
CURRENCY_CODES = ("usd", "eur", "gbp", "jpy", "inr", "cny", "chf", "rs", "rmb", "aud", "cad")
UNIT_OF_LETTER = {
    "m": ("meter",), "g": ("gram",), "s": ("second",), "h": ("hour",), "l": ("liter",),
    "L": ("liter",), "N": ("newton",), "J": ("joule",), "W": ("watt",), "V": ("volt",),
    "A": ("ampere",), "K": ("kelvin",), "C": ("celsius",), "F": ("fahrenheit",),
}  # fmt: skip

_SAME = {
    "usd": "dollar", "us$": "dollar", "eur": "euro", "gbp": "pound", "jpy": "yen", "inr": "rupee",
    "rs": "rupee", "cny": "yuan", "rmb": "yuan", "chf": "franc", "%": "percent",
    "percentage": "percent", "pct": "percent", "°": "degree", "deg": "degree", "°c": "celsius",
    "°f": "fahrenheit", "¢": "cent", "hr": "hour", "min": "minute", "sec": "second",
    "km": "kilometer", "kilometre": "kilometer", "metre": "meter", "cm": "centimeter",
    "centimetre": "centimeter", "mm": "millimeter", "millimetre": "millimeter",
    "kg": "kilogram", "mg": "milligram", "lb": "pound", "oz": "ounce",
    "ft": "foot", "feet": "foot", "inches": "inch", "yd": "yard", "mi": "mile", "ml": "milliliter",
    "millilitre": "milliliter", "litre": "liter", "mph": "mile per hour",
    "kph": "kilometer per hour",
    "sq": "^2", "square": "^2", "cu": "^3", "cubic": "^3",
    "people": "person", "children": "child", "men": "man", "women": "woman",
    "wk": "week", "yr": "year", "mo": "month",
}  # fmt: skip
_SHORT = _words(
    "km kms cm cms mm nm kg kgs mg lb lbs oz ft in yd mi mph kph ml cl dl hr hrs min mins sec secs "
    "ms kb mb gb tb hz khz mhz kw kwh cal kcal pts pcs pct deg st nd rd th sq cu usd eur gbp jpy "
    "inr cny chf rs rmb wk wks yr yrs mo of cc ha"
)
_FILLERS = _words("in total all altogether overall the a an of left remaining exactly only then")
# Words after which the number is another one, or is not alone.
_NO_UNITS = _words(
    "or and to from by than nor xor vs versus times plus minus over under below negative x mod "
    "modulo remainder r squared cubed factorial divided multiplied root not no isn't is are was "
    "were be but if because since when except without unless instead either neither between "
    "through until wrong approximately about around roughly almost nearly at least most half "
    "halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh "
    "sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth "
    "thousandths one two three four five six seven eight nine ten eleven twelve twenty thirty "
    "forty fifty hundred hundreds thousand thousands million millions billion billions trillion "
    "dozen dozens zero for respectively k infinity undefined"
)
_FUNCTIONS = (
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "exp",
    "sqrt",
    "pi",
    "theta",
    "alpha",
    "beta",
    "cot",
)
_WORD = re.compile(r"[^\W\d_][^\W\d_'’-]*(?:['’-][^\W\d_]+)*\.?")
_SLASHED = re.compile(r"([^\W\d_]+)/([^\W\d_]+)")
_PURE = frozenset({("m", "s"), ("g", "l"), ("g", "L"), ("m", "h"), ("J", "g"), ("N", "m")})
_MOST_WORDS = 8


def unit_words(text: str) -> tuple[str, ...] | None:
    """The words of a unit, in one form: without plurals, abbreviations and fillers.

    Args:
        text: everything that follows a number (or a currency before it).

    Returns:
        The words, none for `in total`; or None where the text is no unit, or not only one.
    """
    glued = bool(text) and not text[0].isspace()
    text = text.strip().rstrip(".,;:")
    text = re.sub(r"\(([^()]*)\)", r" \1 ", text)
    text = re.sub(r"\^\{?(-?\d)\}?", r"^\1", text).replace("\\$", "$")
    pieces = text.split()
    if not pieces or len(pieces) > _MOST_WORDS:
        return None if pieces else ()
    if pieces == ["in"]:
        return ("inch",)
    words: list[str] = []
    for number, piece in enumerate(pieces):
        made = _word(piece.rstrip(","), glued=glued and number == 0)
        if made is None:
            return None
        words += made
    if len(words) == 2 and words[0] == "degree" and words[1] in ("celsius", "fahrenheit"):
        words = words[1:]
    return tuple(words)


def _word(piece: str, *, glued: bool) -> list[str] | None:
    base, _, power = piece.partition("^")
    if power not in ("", "2", "3"):
        return None
    after = [f"^{power}"] if power else []
    low = base.lower()
    if base in SYMBOLS or (base[-1:] in SYMBOLS and low[:-1] in ("us", "a", "c", "ca", "au")):
        own = "" if low[:-1] in ("", "us") else low[:-1] + " "
        return [own + SYMBOLS[base[-1]]]
    if low in _SAME and not low[0].isalpha():
        return [_SAME[low]]
    if slashed := _SLASHED.fullmatch(base):
        if slashed.groups() in _PURE:
            return [*_single(slashed[1]), "per", *_single(slashed[2]), *after]
        first = _word(slashed[1], glued=glued)
        known = slashed[2] in UNIT_OF_LETTER
        second = _single(slashed[2]) if known else _word(slashed[2], glued=False)
        return None if first is None or second is None else [*first, "per", *second, *after]
    if not _WORD.fullmatch(base) or low.rstrip(".") in _NO_UNITS:
        return None
    low = low.rstrip(".").replace("’", "'")
    if low not in _SHORT and not _looks_like_a_word(low, glued=glued):
        return None
    if low in _FILLERS and not glued:
        return []
    return [*_SAME.get(low, _singular(low)).split(), *after]


def _single(letter: str) -> list[str]:
    return list(UNIT_OF_LETTER.get(letter, (letter,)))


def _looks_like_a_word(low: str, *, glued: bool) -> bool:
    if low in _FILLERS:
        return not glued
    long_enough = len(low) >= (4 if glued else 3) and len(set(low)) > 1
    if not low.isascii():
        return not low.startswith(_FUNCTIONS)
    return long_enough and any(c in "aeiouy" for c in low) and not low.startswith(_FUNCTIONS)


def _singular(low: str) -> str:
    low = low.removesuffix("'s")
    for plural, one in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if low.endswith(plural) and len(low) > len(plural) + 1:
            return low.removesuffix(plural) + one
    if low.endswith("s") and not low.endswith(("ss", "us")) and low[:-1] and len(low) > 2:
        low = low[:-1]
    return _SAME.get(low, low)
