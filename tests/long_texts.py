"""Texts of ten megabytes, and how much memory something takes, for child processes of the tests."""

from __future__ import annotations

from pathlib import Path

_SENTENCE = "the film was good and nice zebra9 "
SENTENCE = len(_SENTENCE)
LONG = {
    "words": _SENTENCE * 295_000,
    "one word": "a" * 10_000_000,
    "no spaces": "好電影" * 3_400_000,
    "blanks": " " * 10_000_000,
    "punctuation": "!" * 10_000_000,
    "combining marks": "e" + "\u0301" * 10_000_000,
}


def resident(which="VmRSS"):
    """Megabytes that this process has in memory now, or ("VmHWM") has had at most; Linux only."""
    line = next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith(which))
    return int(line.split()[1]) / 1024


def peak_of(function):
    """The result of a function, and how many megabytes more than before the process had at its peak."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # from here on
    return function(), resident("VmHWM") - before
