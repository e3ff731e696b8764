"""JSON that anyone may have written: read without endless memory, and without numbers that are not finite."""

import json
import math
import re
from typing import Any

DEEPEST_JSON = 64
"""Most braces and brackets inside one another that are read."""
LONGEST_NUMBER = 40
"""Most digits of an integer that are read."""
_SUSPECT = re.compile(rb"\d{%d}|[eE]\+?\d{3}|NaN|Infinity" % (LONGEST_NUMBER + 1))
"""Matches any text that has a number which is too long or not finite. Only then is each number looked at."""


def parse_json(text: bytes) -> Any:
    """Return what JSON text says.

    Raises `ValueError` if it is no JSON, nests deeper than `DEEPEST_JSON`, or has a number that is infinite, NaN or
    longer than `LONGEST_NUMBER` digits.
    """
    too_deep = ValueError(f"braces and brackets are nested more than {DEEPEST_JSON} deep")
    guards: dict[str, Any] = {}
    if _SUSPECT.search(text):
        guards = {"parse_int": _short, "parse_float": _finite, "parse_constant": _finite}
    try:
        # Decoded here, as `json` itself also takes UTF-16, in which the search above finds nothing.
        value = json.loads(text.decode("utf-8-sig", "surrogatepass"), **guards)
    except RecursionError:
        raise too_deep from None
    if text.count(b"{") + text.count(b"[") > DEEPEST_JSON:
        depth, level = 0, [value]
        while level := [one for one in level if isinstance(one, dict | list)]:
            depth += 1
            level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        if depth > DEEPEST_JSON:
            raise too_deep
    return value


def _short(digits: str) -> int:
    if len(digits.lstrip("-")) > LONGEST_NUMBER:
        raise ValueError(
            f"a number of {len(digits)} digits, {digits[:10]}..., where {LONGEST_NUMBER} are the most"
        )
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is not finite")
    return number
