r"""Takes the decoration off a stated answer, and splits lists at their separators."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    "−": "-", "﹣": "-", "－": "-", "‐": "-", "‑": "-", "＋": "+", "⁄": "/", "∕": "/",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ",
    "∅": r"\emptyset ", "“": '"', "”": '"', "‘": "'", "’": "'", "\u200b": "", "\ufeff": "",
    "\u2060": "", "√": r"\sqrt ",
}  # fmt: skip
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+|[⁺⁻]?ⁿ")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|tt)?|mathrm|mathbf|mathit|mbox|operatorname|emph|bm)\s*\{([^{}]*)\}"
)
_LETTER_UNITS = {"m": "meter", "g": "gram", "s": "second", "h": "hour", "l": "liter", "L": "liter"}
_PAIRS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ('"', '"'), ("$$", "$$"),
          ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("~~", "~~"), ("'", "'"))  # fmt: skip
_PREFIX = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+)?"
    r"(?:answer|ans)\b\s*(?:is|:|=)\s*:?\s*",
    re.I,
)
_TAGS = re.compile(r"</?(?:b|i|u|em|strong|p|span|code)\b[^<>]*>", re.I)
_TRAILING = " \t\r\n.,;:"


def decorated(answer: str) -> str:
    """An answer without bold, dollars of mathematics, quotes, LaTeX spaces and closing punctuation.

    Signs that other alphabets have for the same (−, ½, ², thin spaces) become the usual ones.

    Args:
        answer: as written.

    Returns:
        The same on one line; perhaps nothing.
    """
    text = _latex(_usual_signs(_TAGS.sub("", answer)))
    while True:
        before = text
        text = _unwrapped(re.sub(r"\s+", " ", text).strip())
        text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
        text = re.sub(r"^(?:[=:→⇒]|(?:option|choice)\s+(?=\(?[A-Z]\)?$))\s*", "", text, flags=re.I)
        text = re.sub(r"^([A-Z])[).]$", r"\1", text)
        text = re.sub(r"(?<=[A-Za-z]{3})!+$", "", text)
        if not text.endswith(("...", "…")):
            text = text.rstrip(_TRAILING) if not text.endswith(r"\,") else text[:-2]
        if text == before:
            return text


def _usual_signs(text: str) -> str:
    made = []
    text = _LOWERED.sub(lambda found: _set("_", found[0]), text)
    for sign in _RAISED.sub(lambda found: _set("^", found[0]), text):
        if sign in _SIGNS:
            made.append(_SIGNS[sign])
        elif unicodedata.category(sign) == "Zs":
            made.append(" ")
        elif "⁄" in (plain := unicodedata.normalize("NFKC", sign)):
            top, _, bottom = plain.partition("⁄")
            made.append(rf"\frac{{{top}}}{{{bottom}}}" if top and bottom else plain)
        elif unicodedata.category(sign) == "Nd" or "\uff00" <= sign <= "\uffef":
            digit = unicodedata.decimal(sign, None)
            made.append(plain if digit is None else str(digit))
        else:
            made.append(sign)
    return re.sub(r"(?<![\w)])–(?=\s?[\d.$€£])", "-", "".join(made))


def _set(how: str, digits: str) -> str:
    """Raised or lowered digits as LaTeX."""
    plain = unicodedata.normalize("NFKC", digits).replace("−", "-").replace("+", "")
    return how + (plain if len(plain) == 1 else f"{{{plain}}}")


def _latex(text: str) -> str:
    text = re.sub(r"(?<=\d)(?:\{,\}|\\[,!:; ]|~)(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\(?:left|right|big|Big|bigg|displaystyle|,?limits)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"(?<!\\)\\(?:,|;|:|!|quad|qquad|\s)|(?<=[\w.})$])~(?=[\w\\({$])", " ", text)
    text = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree", "°", text)
    text = re.sub(r"\\([%#&])", r"\1", text)
    for _ in range(3):
        text = _TEXT.sub(_text, text)
    text = re.sub(r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le", text)
    text = re.sub(r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge", text)
    # 0x1F is a number of base 16
    times = r"(?<=\d)(?<!(?<![\d.])0(?=x))\s*(?:[x*]|(?<= )X(?= ))\s*(?=\d)"
    return re.sub(times, r" \\times ", text)


def _text(found: re.Match[str]) -> str:
    held = found[1]
    bare = held.strip()
    return f" {_LETTER_UNITS[bare]} " if bare in _LETTER_UNITS else held


def _unwrapped(text: str) -> str:
    for first, last in _PAIRS:
        inner = text[len(first) : len(text) - len(last)]
        wraps = text.startswith(first) and text.endswith(last) and len(text) > len(first + last)
        if wraps and first not in inner and last not in inner:
            return inner
    # within: bold around a part, as in **72** apples
    text = re.sub(r"(?<![\w)*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\w(*])", r"\1", text)
    text = re.sub(r"(?<![\w)*$])\$(?=\S)([^$]*[^$\\\s])\$(?![\w(])", r"\1", text)
    return strip_group(text)


def strip_group(text: str) -> str:
    """A text without braces or parentheses around the whole of it, if it holds no list."""
    text = text.strip()
    while len(text) > 2 and (text[0], text[-1]) in (("{", "}"), ("(", ")")):
        if _closing(text, 0) != len(text) - 1 or (text[0] == "(" and "," in text):
            break
        text = text[1:-1].strip()
    return text


def split_list(text: str) -> tuple[str, str, list[str]]:
    r"""The parts of a list such as `3 or 7`, `(1, 2]` or `\{x, y\}`.

    Commas between groups of three digits separate nothing unless brackets stand around them.

    Returns:
        The brackets ("" for none), the word that joins the parts ("or", "and" or ""), the parts.
    """
    brackets, inner = _brackets(text)
    parts, joints, at, start = [], set(), 0, 0
    commas = inner.count(",") - inner.count("\\,")
    depth = 0
    while at < len(inner):
        if inner[at] in "([{":
            depth += 1
        elif inner[at] in ")]}":
            depth -= 1
        joint = None if depth else _joint(inner, at, bool(brackets))
        if joint is not None:
            parts.append(inner[start:at])
            joints.add(joint[0])
            at = start = at + joint[1]
        else:
            at += 1
    parts = [part.strip() for part in (*parts, inner[start:])]
    parts = [part for part in parts if part]
    if brackets and len(parts) < 2 and (commas or brackets != "{}"):
        return "", "", [text]
    words = joints & {"or", "and"}
    return brackets, " ".join(sorted(words)), parts


def _joint(text: str, at: int, inside: bool) -> tuple[str, int] | None:
    word = re.compile(r"(or|and)\b").match(text, at)
    if word is not None and not re.search(r"[A-Za-z\\]$", text[:at]):
        return word[1], len(word[0])
    if text[at] == ";":
        return "", 1
    if text[at] == ",":
        grouped = re.compile(r"\d{3}(?!\d)").match(text, at + 1) and text[at - 1 : at].isdigit()
        return None if grouped and not inside else ("", 1)
    return None


def _brackets(text: str) -> tuple[str, str]:
    if text.startswith(r"\{") and text.endswith(r"\}") and r"\{" not in text[2:]:
        return "{}", text[2:-2]
    bracketed = len(text) > 2 and text[0] in "([" and text[-1] in ")]" and "," in text
    if bracketed and _closing(text, 0) == len(text) - 1:
        return text[0] + text[-1], text[1:-1]
    return "", text


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at a position closes, of whatever kind; -1 if nowhere."""
    depth = 0
    for position in range(at, len(text)):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    return -1
