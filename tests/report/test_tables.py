import pytest

from bellgrad.report.tables import format_duration, format_number, markdown_table, short_count


def test_a_markdown_table_lines_up_and_aligns_numbers_right():
    rows = [{"task": "a|b", "speed": 12345.6, "n": 5}, {"task": "c\nd", "speed": None, "n": 10_000}]
    assert (
        markdown_table(rows, {"task": "Task", "speed": "Steps/s", "n": "n"})
        == "| Task | Steps/s |      n |\n| ---- | ------: | -----: |\n| a\\|b |  12,346 |      5 |\n| c d  | "
        "      - | 10,000 |\n"
    )


def test_columns_may_be_names_alone_and_rows_may_lack_them():
    assert markdown_table([{"a": True}], ["a", "b"]) == "| a   | b   |\n| --- | --- |\n| yes | -   |\n"
    assert markdown_table([], ["a"]) == "| a   |\n| --- |\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.56, "1,234.6"),
        (98765.4, "98,765"),
        (-21.5, "-21.5"),
        (475.0, "475"),
        (0.00031, "0.00031"),
        (1.5, "1.5"),
    ],
)
def test_numbers_keep_what_a_reader_needs(value, text):
    assert format_number(value) == text


def test_counts_and_durations_are_short():
    assert [short_count(v) for v in (0, 500, 50_000, 1_500_000, 2e9)] == ["0", "500", "50k", "1.5M", "2B"]
    assert [format_duration(v) for v in (8.44, 59.97, 192, 3725)] == [
        "8.4 s",
        "1 min 00 s",
        "3 min 12 s",
        "1 h 02 min",
    ]
