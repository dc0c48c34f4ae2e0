import pytest

from shoal import methods
from shoal.comparing import check_seeds, contenders
from shoal.errors import ConfigError
from shoal.methods.random import RandomSettings
from shoal.methods.sglp import SGLPSettings


def test_all_methods_take_part_where_none_is_named():
    assert [each.label for each in contenders(None, seeds=(0,))] == list(methods.names())


def test_presets_and_settings_reach_their_method_alone():
    plain, paper = contenders(
        ["sglp", "sglp:paper"], {"sglp:paper": {"most_subsets": 3, "graft": {"batches": 5}}}, seeds=(0,)
    )
    assert plain.settings == SGLPSettings()
    assert (paper.settings.most_subsets, paper.settings.graft.batches) == (3, 5)
    assert paper.settings.partition == "row_sums"


def test_an_instance_of_settings_is_taken_as_it_is():
    mine = SGLPSettings(exchanges=7)
    assert contenders(["sglp:paper"], {"sglp:paper": mine}, seeds=(0,))[0].settings == mine


def test_methods_that_draw_run_once_a_seed_and_others_once_a_healing():
    drawn, fixed, preset = contenders(["random", "last", "sglp:paper"], seeds=(4, 5, 6), heal_seeds=2)
    assert (drawn.seeds, fixed.seeds, preset.seeds) == ((4, 5, 6), (4, 5), (4, 5, 6))
    assert drawn.at(5) == RandomSettings(seed=5)
    assert fixed.at(5) == fixed.settings
    assert preset.at(6).seed == 6


@pytest.mark.parametrize(
    ("labels", "settings", "match"),
    [
        ([], {}, "asked to compare no methods: there are"),
        (["sgpl"], {}, "The nearest is 'sglp'"),
        (["sglp:papers"], {}, "The nearest is 'paper'"),
        (["last", "sglp", "last"], {}, "asked to compare last twice"),
        (["last"], {"lst": {}}, "settings of 'lst', which is not compared: there are last"),
        (["sglp"], {"sglp": {"exchange": 1}}, "The nearest is 'exchanges'"),
        (["random"], {"random": {"seed": 1}}, "seed=1 of random, which is run once for each seed"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused(labels, settings, match):
    with pytest.raises(ConfigError, match=match):
        contenders(labels, settings, seeds=(0,))


@pytest.mark.parametrize(("seeds", "heal_seeds"), [((0,), 1), ((3, 1, 2), 3), (range(2), 2)])
def test_seeds_that_are_enough_pass(seeds, heal_seeds):
    check_seeds(seeds, heal_seeds, healing=True)


@pytest.mark.parametrize(
    ("seeds", "heal_seeds", "healing", "match"),
    [
        ((), 1, True, r"asked for the seeds \[\]: one or more"),
        ((1, 1), 1, True, "each of them once"),
        ((0, 1), 3, True, "with 3 of 2 seeds: 1 to 2 work"),
        ((0, 1), 0, True, "with 0 of 2 seeds"),
        ((0, 1), 2, False, "asked to heal with 2 seeds, and not to heal"),
    ],
)
def test_seeds_that_do_not_work_are_refused(seeds, heal_seeds, healing, match):
    with pytest.raises(ConfigError, match=match):
        check_seeds(seeds, heal_seeds, healing=healing)
