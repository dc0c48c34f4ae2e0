from dataclasses import replace

from shoal.measurement.cache import CacheSize
from shoal.measurement.footprint import Footprint
from shoal.reports.footprints import footprint_table

PLAIN = Footprint(params=1000, weights=2048, macs=4000)
CACHED = replace(PLAIN, cache=CacheSize(per_token=1024, state=0))


def cells(table):
    return {row[0]: row[1:] for row in table.rows}


def test_what_a_network_takes_stands_before_and_after():
    half = Footprint(params=500, weights=1024, macs=1000)
    assert cells(footprint_table(PLAIN, half)) == {
        "parameters": ("1 k", "500", "0.500"),
        "weights": ("2 KiB", "1 KiB", "0.500"),
        "MACs": ("4 k", "1 k", "0.250"),
    }


def test_a_network_without_a_cache_is_said_to_have_none():
    assert "the model hands out no cache" in footprint_table(PLAIN, PLAIN).notes
    assert "the model hands out no cache" not in footprint_table(CACHED, CACHED).notes


def test_a_cache_without_windows_and_states_takes_one_row():
    small = replace(CACHED, cache=CacheSize(per_token=512, state=0))
    rows = cells(footprint_table(CACHED, small))
    assert rows["cache a token"] == ("1 KiB", "512 B", "0.500")
    assert len(rows) == 4


def test_windows_and_states_have_rows_of_their_own():
    before = replace(PLAIN, cache=CacheSize(per_token=1024, state=4096, windows={511: 1024}))
    after = replace(PLAIN, cache=CacheSize(per_token=1024, state=2048))
    rows = cells(footprint_table(before, after))
    assert rows["cache a token"] == ("2 KiB", "1 KiB", "0.500")
    assert rows["cache a token past 511"] == ("1 KiB", "1 KiB", "1.000")
    assert rows["state of a sequence"] == ("4 KiB", "2 KiB", "0.500")


def test_what_is_not_counted_is_said():
    odd = replace(PLAIN, uncounted={"custom.scan": 2})
    assert "MACs leave out: custom.scan × 2" in footprint_table(odd, odd).notes


def test_samples_are_told():
    assert footprint_table(PLAIN, PLAIN, samples=3).notes[0].startswith("MACs of one call with 3 samples;")
