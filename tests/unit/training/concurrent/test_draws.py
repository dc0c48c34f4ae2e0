import json

import torch

from shoal.training.concurrent.draws import Draws

HALF = dict.fromkeys(range(6), 0.5)


def test_every_gate_is_open_as_often_as_its_theta_says_whatever_the_others_do():
    theta = torch.tensor([0.35, 0.9, 0.0, 0.6, 1.0, 0.1])
    draws, probabilities = Draws(6, 0), dict(enumerate(theta.tolist()))
    drawn = torch.ones(4000, 6)
    for row in drawn:
        row[list(draws.draw(probabilities))] = 0
    rates, pairs = drawn.mean(0), drawn.T.cov().fill_diagonal_(0)
    # Four standard deviations of what independent draws give.
    assert ((rates - theta).abs() <= 4 * (theta * (1 - theta) / 4000).sqrt()).all()
    assert pairs.abs().max() < 4 * 0.25 / 4000**0.5


def test_draws_repeat_with_their_seed_and_do_not_depend_on_which_units_have_gates():
    def drawn(seed, gone=()):
        draws, theta = Draws(6, seed), {index: 0.5 for index in range(6) if index not in gone}
        return [draws.draw(theta) for _ in range(20)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0, {2, 5}) == [each - {2, 5} for each in drawn(0)]


def test_a_draw_serves_four_calls_of_a_step():
    draws, single = Draws(6, 0), Draws(6, 0)
    expected = [single.draw(HALF) for _ in range(3)]
    served = [draws.serving(HALF) for _ in range(6)]
    assert served == [expected[0]] * 4 + [expected[1]] * 2
    draws.end_step()
    assert draws.serving(HALF) == expected[2]


def test_a_draw_that_serves_several_calls_goes_on():
    before, after = Draws(6, 0), Draws(6, 1)
    for _ in range(3):
        before.serving(HALF)
    state = before.state()
    json.dumps({name: value for name, value in state.items() if name != "generator"})
    after.restore_(state)
    assert [after.serving(HALF) for _ in range(12)] == [before.serving(HALF) for _ in range(12)]
