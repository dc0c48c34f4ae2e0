import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from shoal.measurement.counting import count_macs, count_params


class Basic(nn.Module):
    """A CIFAR ResNet's block with the parameter-free shortcut of He et al. (option A)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            quarter = branch.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(branch + x)


def resnet(depths: list[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width, depth in zip((16, 32, 64), depths, strict=True):
        for _ in range(depth):
            layers.append(Basic(before, width))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("depths", "params", "macs"), [([9, 9, 9], 0.8530, 125.49), ([5, 4, 4], 0.3716, 59.43)]
)
def test_resnet_56_has_the_published_size(depths, params, macs):
    net = resnet(depths)
    assert round(count_params(net) / 1e6, 4) == params
    count = count_macs(net, torch.zeros(1, 3, 32, 32))
    assert round(count.total / 1e6, 2) == macs
    assert count.uncounted == {}


def test_a_convolution_costs_its_kernel_at_every_output():
    conv = nn.Conv2d(4, 6, (3, 5), stride=2, groups=2)
    out = conv(torch.zeros(2, 4, 11, 13))
    assert count_macs(conv, torch.zeros(2, 4, 11, 13)).total == out.numel() * (4 // 2) * 3 * 5


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_macs_grow_with_the_samples(samples):
    assert count_macs(nn.Linear(3, 2), torch.zeros(samples, 3)).total == samples * 6


def test_parts_of_a_network_are_named_by_dotted_path():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    count = count_macs(net, torch.zeros(1, 4))
    assert count.by_module == {"": 24, "0": 16, "1": 8, "1.0": 0, "1.1": 8}


def test_a_shared_module_counts_once_in_parameters_and_twice_in_macs():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert count_params(net) == 20
    count = count_macs(net, torch.zeros(1, 4))
    assert (count.total, count.by_module["0"]) == (32, 32)


class Tupled(nn.Module):
    """Takes keywords, returns a tuple, as layers of language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, *, hidden: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        return self.inner(hidden) * scale, None


def test_keyword_arguments_and_tuple_outputs_are_counted():
    net = Tupled()
    assert count_macs(net, {"hidden": torch.zeros(3, 4), "scale": 2.0}).by_module == {"": 48, "inner": 48}


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=12,
        vocab_size=11,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def test_a_language_model_counts_its_products_and_both_of_attention():
    count = count_macs(llama(), {"input_ids": torch.arange(6)[None]})
    products = 6 * (8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 12)
    attention = 2 * 6 * 6 * 8
    assert count.by_module["model.layers.0"] == count.by_module["model.layers.1"] == products + attention
    assert count.total == 2 * (products + attention) + 6 * 8 * 11
    assert count.uncounted == {}


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_with_fewer_key_heads_counts_like_attention_with_all(heads):
    class Attention(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    query, key, value = torch.zeros(1, 4, 6, 8), torch.zeros(1, heads, 5, 8), torch.zeros(1, heads, 5, 8)
    assert count_macs(Attention(), (query, key, value)).total == 2 * 4 * 6 * 5 * 8


def test_a_transformer_layer_of_torch_is_counted_although_it_has_a_fused_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    count = count_macs(layer, torch.zeros(1, 4, 8))
    assert count.total == 4 * 8 * 24 + 2 * 4 * 4 * 8 + 4 * 8 * 8 + 2 * 4 * 8 * 16
    assert count.uncounted == {}
    assert torch.backends.mha.get_fastpath_enabled()


class Products(nn.Module):
    def forward(self, matrix: Tensor, vector: Tensor) -> Tensor:
        return torch.dot(matrix @ vector, torch.addmv(vector, matrix, vector))


def test_products_with_vectors_are_counted():
    assert count_macs(Products(), (torch.zeros(4, 4), torch.zeros(4))).total == 16 + 16 + 4


class Spectral(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs() + torch.linalg.vector_norm(x).relu()


def test_what_cannot_be_counted_is_named_and_what_is_elementwise_is_not():
    count = count_macs(Spectral(), torch.ones(8))
    assert (count.total, count.uncounted) == (0, {"aten._fft_r2c": 1})


def test_a_recurrent_kernel_without_formula_is_named():
    count = count_macs(nn.Sequential(nn.LSTM(4, 4)), torch.zeros(3, 2, 4))
    assert count.total > 0 or list(count.uncounted) == ["aten.mkldnn_rnn_layer"]


@torch.library.custom_op("shoal_tests::triple", mutates_args=())
def triple(x: Tensor) -> Tensor:
    return 3 * x


def test_an_operation_of_a_foreign_namespace_is_named():
    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return triple(triple(x))

    assert count_macs(Custom(), torch.ones(2)).uncounted == {"shoal_tests.triple": 2}


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 4))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    count_macs(net, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
