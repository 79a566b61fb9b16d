"""Lists in error messages, cut to one readable line with a count."""

from collections.abc import Sequence

LINE = 200  # characters of a list; what stands around it fits one line of 400 bytes
ENTRY = 90


def listed(entries: Sequence[str], line: int = LINE) -> str:
    """ "a; b; and 7 more": as many entries as fit, at least one.

    Names out of files go into messages: nothing that steers a terminal is kept.
    """
    shown: list[str] = []
    for entry in entries:
        text = entry if entry.isprintable() else repr(entry)[1:-1]
        text = text if len(text) <= ENTRY else text[: ENTRY - 3] + "..."
        if shown and len("; ".join([*shown, text])) > line:
            break
        shown.append(text)
    more = len(entries) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
