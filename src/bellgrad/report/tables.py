"""Numbers and tables as text: the one place that decides how a number is written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def format_number(value: float) -> str:
    """About four significant digits, with a separator for thousands: `1,234`, `98.77`, `0.0003`."""
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    if size >= 1 or size == 0:
        digits = 3 if size < 10 else 2 if size < 100 else 1
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.4g}"


def short_count(value: float, _position: int | None = None) -> str:
    """A count for an axis: `500`, `50k`, `1.5M`."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def format_duration(seconds: float) -> str:
    """`8.4 s`, `3 min 12 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_value(value: Any) -> str:
    """A setting or a result of any kind as text; a dash if it is absent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list | tuple):
        return " ".join(map(format_value, value))
    return str(value)


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | Sequence[str]) -> str:
    """A Markdown table; columns of numbers are right-aligned, and a missing value is a dash.

    Args:
        rows: one dictionary per line.
        columns: the keys in their order, with their headings, or the keys alone.
    """
    rows = list(rows)
    headings = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    cells = [[_cell(heading) for heading in headings.values()]]
    cells += [[_cell(format_value(row.get(name))) for name in headings] for row in rows]
    numeric = [_all_numbers([row.get(name) for row in rows]) for name in headings]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(headings))]
    rule = [
        ("-" * (width - 1) + ":") if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    lines = [
        "| "
        + " | ".join(
            c.rjust(width) if right else c.ljust(width)
            for c, width, right in zip(line, widths, numeric, strict=True)
        )
        + " |"
        for line in [cells[0], rule, *cells[1:]]
    ]
    return "\n".join(lines) + "\n"


def _all_numbers(values: list[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present
    )


def plain_name(text: object, longest: int = 60) -> str:
    """A user's name in one line of text or of a picture: without line breaks and control characters, and
    shortened in the middle if it is too long."""
    line = _line(str(text))
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[1 - half :]}"


def _cell(text: str) -> str:
    return _line(text).replace("|", r"\|")


def _line(text: str) -> str:
    """Without line breaks and control characters, which a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
