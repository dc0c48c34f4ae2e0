"""What a cut of files takes, in a table."""

from shoal.cli.cutting import _sizes_table


def test_what_is_not_known_has_no_row():
    table = _sizes_table({"params": 100, "weights": 2048}, {"params": 50, "weights": 1024})
    assert table.rows == (
        ("parameters", "100", "50", "0.500"),
        ("weights", "2 KiB", "1 KiB", "0.500"),
    )


def test_what_the_plan_knows_has_one():
    table = _sizes_table({"params": 4, "weights": 8, "macs": 6}, {"params": 2, "weights": 4, "macs": 3})
    assert table.rows[2] == ("MACs", "6", "3", "0.500")
