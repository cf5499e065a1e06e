"""Colours of the page, in a light and a dark theme, and the scale of values.

Arms have the colours of all pictures (`vfunc.report.drawing`), made darker or lighter until they
stand out from the page; values go from red (below 0) to blue (above), as in the pictures' `RdBu`.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.colors import to_hex, to_rgb

from vfunc.report.drawing import arm_style

LIGHT, DARK = "#ffffff", "#15181d"
"""The page."""
_LEAST = 4.5  # contrast with the page, as WCAG asks of text
LEVELS = 8
"""Levels of the scale of values on either side of 0."""
_ENDS = {LIGHT: ("#f4978e", "#7db8ee"), DARK: ("#9b2f2f", "#1f5fa8")}  # under black; white text


def readable(colour: str, page: str) -> str:
    """A colour, moved towards black or white until it stands out from the page."""
    towards = "black" if _luminance(page) > 0.5 else "white"
    steps = (mixed(colour, towards, step / 20) for step in range(21))
    return next(shade for shade in steps if contrast(shade, page) >= _LEAST)


def mixed(a: str, b: str, share: float) -> str:
    """The colour at a share of the way from one to another."""
    ways = zip(to_rgb(a), to_rgb(b), strict=True)
    red, green, blue = (one + (other - one) * share for one, other in ways)
    return to_hex((red, green, blue))


def contrast(a: str, b: str) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def rules(arms: Iterable[str]) -> str:
    """CSS: a class `c<number>` an arm, and `v-8` to `v8` for values.

    Args:
        arms: names, in the order of the numbers; only their number is written.
    """
    names = list(arms)

    def themed(page: str) -> list[str]:
        lines = [
            f".c{i}{{color:{readable(arm_style(name)[0], page)}}}" for i, name in enumerate(names)
        ]
        red, blue = _ENDS[page]
        for level in range(-LEVELS, LEVELS + 1):
            face = mixed(page, red if level < 0 else blue, abs(level) / LEVELS)
            lines.append(f".v{level}{{background:{face}}}")
        return lines

    dark = "\n".join(themed(DARK))
    return "\n".join(themed(LIGHT)) + f"\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
