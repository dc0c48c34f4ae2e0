"""Ctrl-C at every line of what takes units out of a network in training: nothing is lost."""

import sys
from copy import deepcopy
from functools import partial
from itertools import count

import pytest
import torch

from gated import Toy
from shoal import find_units
from shoal.architectures import bypassed
from shoal.training.concurrent.gates import Gates

FILES = ("concurrent/emptied.py", "concurrent/gates.py")


def interrupted(work, line):
    """Do the work, but for Ctrl-C before its n-th line in those files; return whether it came so far."""
    left = [line]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True


CHAIN = find_units(Toy(3), torch.zeros(1, 64))


def gated():
    torch.manual_seed(0)
    net, x = Toy(3), torch.randn(2, 64)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    gates = Gates(net, CHAIN)
    gates.draws.draw = lambda theta: frozenset(gates.removed)
    net(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    gates.forget()
    return net, x, optimizer, gates


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_removal_is_finished_by_what_comes_next_or_has_not_begun(goes_on):
    ended = []
    for line in count():
        net, x, optimizer, gates = gated()
        plain = deepcopy(net)
        done = interrupted(partial(gates.remove_, 1, optimizer), line)
        if goes_on:
            net(x).sum().backward()
            optimizer.step()
            with bypassed(plain, gates.chain, gates.removed):
                again = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)
                again.load_state_dict(gated()[2].state_dict())
                plain(x).sum().backward()
                again.step()
        removed = list(gates.removed)
        small = gates.finished().eval()
        ended.append(gates.removed)
        assert removed == gates.removed or not goes_on
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in net.parameters()}
        with bypassed(plain.eval(), gates.chain, gates.removed):
            assert torch.equal(small(x), plain(x))
        if done:
            break
    assert ended[0] == []
    assert ended[-1] == [1]
    assert ended == sorted(ended)
    assert len(ended) > 30


def test_finishing_that_is_interrupted_is_done_again():
    for line in count():
        net, x, optimizer, gates = gated()
        for index in (0, 1):
            gates.remove_(index, optimizer)
        net(x)
        expected = gates.outputs
        done = interrupted(gates.finished, line)
        assert torch.equal(gates.finished()(x), expected)
        assert torch.equal(gates.finished()(x), expected)
        assert len(list(net.parameters())) == 3 + 3
        if done:
            break
    assert line > 30
