from shoal.reports import Table, markdown_table


def test_signs_that_mean_something_are_escaped():
    table = Table(title="a*b", columns=(("", False), ("n", True)), rows=(("a|b_c", "<1"),), notes=("*: x",))
    assert markdown_table(table).splitlines() == [
        r"**a\*b**",
        "",
        "|  | n |",
        "| --- | ---: |",
        r"| a\|b\_c | \<1 |",
        "",
        r"- \*: x",
    ]


def test_a_table_without_rows_is_its_title_and_notes():
    table = Table(title="none", columns=(("n", True),), rows=(), notes=("why",))
    assert markdown_table(table) == "**none**\n\n- why"
