from types import SimpleNamespace

from torch import nn

from shoal.architectures.routing import unrouted


def test_networks_return_no_routing_inside_and_what_they_did_before_outside():
    shared, other = SimpleNamespace(output_router_logits=True), SimpleNamespace(output_router_logits=False)
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU())
    net[0].config, net[1].config, net[2].config = shared, shared, other
    with unrouted(net):
        assert not shared.output_router_logits
        assert not other.output_router_logits
    assert shared.output_router_logits
    assert not other.output_router_logits
