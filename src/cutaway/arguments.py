"""Check the whole numbers that callers give, and show values in error messages.

A whole number is an int, a NumPy integer or an integer tensor without dimensions, so `logits.argmax()` is one. True,
3.0 and "3" are not.
"""

from __future__ import annotations

import operator
import reprlib
from typing import Any

from cutaway.errors import InputError

MOST = 2**63 - 1  # the largest number of 64 bits
MOST_DRAWS = 1_000_000  # random draws that each cost a fit or a resample
SEEDS = 2**64  # the number of seeds of torch's generators
LONGEST = 100  # characters of a value that a message shows

_short = reprlib.Repr()
_short.maxstring = _short.maxother = LONGEST


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number: an int, a NumPy integer, or an integer tensor without dimensions."""
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0 or "bool" in str(getattr(value, "dtype", "")):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return True


def whole(name: str, value: Any, least: int | None = None, most: int = MOST, *, of: str = "whole number") -> int:
    """Return a whole number from `least` to `most` as an int. Raises InputError, saying what was expected."""
    number = operator.index(value) if is_whole(value) else None
    low = -MOST - 1 if least is None else least
    if number is None or not low <= number <= most:
        if least is None:
            expected = f"a {of} of 64 bits" if number is not None else f"a {of}"
        elif number is None or number < low:
            expected = f"a {of} of at least {least}"
        else:
            expected = f"a {of} from {least} to {most:,}" if most != MOST else f"a {of} of 64 bits, at least {least},"
        raise InputError(f"{name}={shown(value)}: {expected} was expected")
    return number


def seed_of(value: Any) -> int:
    """Return a seed as an int. Raises InputError for anything else."""
    number = operator.index(value) if is_whole(value) else None
    if number is None or not 0 <= number < SEEDS:
        raise InputError(f"seed={shown(value)}: a whole number from 0 to 2**64 - 1 was expected")
    return number


def shown(value: object) -> str:
    """Return a value as a message shows it: a short repr, or the type and shape of a tensor or array."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype") and hasattr(value, "tolist"):
        if not len(shape):
            return repr(value.tolist())
        return f"a {type(value).__name__} of {str(value.dtype).removeprefix('torch.')} {list(shape)}"
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {len(bin(value)) * 3 // 10:,} digits"
    return _short.repr(value)
