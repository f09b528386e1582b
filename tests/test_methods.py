"""The contract every method keeps, over all that are discovered (DESIGN.md, "A method is a file")."""

import itertools

import pytest
import torch
from torch import nn

from edgecomp import discover
from edgecomp.calibration import Inputs
from edgecomp.layers.matrix import kind_of, weight_matrix
from edgecomp.plan import parameter_bytes

# For each method: settings from the smallest budget to the largest; the last one reproduces a small layer.
LADDERS = {
    "pq": [
        {"s": 8, "k": 4},
        {"s": 4, "k": 8},
        {"s": 4, "k": 16},
        {"s": 2, "k": 16},
        {"s": 2, "k": 256},
        {"s": 1, "k": 256},
    ],
}
EXTRA = {
    "pq": [{"axis": "y"}, {"codebooks": "shared"}, {"codebook_dtype": "float32"}, {"axis": "y", "codebooks": "shared"}],
}

LAYERS = {
    "dense": lambda: nn.Linear(30, 64),
    "dense without bias": lambda: nn.Linear(32, 40, bias=False),
    "one row": lambda: nn.Linear(16, 1),
    "one column": lambda: nn.Linear(1, 16),
    "fewer rows than codewords": lambda: nn.Linear(20, 3),
    "conv": lambda: nn.Conv2d(4, 32, 3, padding=1),
    "conv 1x1": lambda: nn.Conv2d(16, 32, 1),
    "conv 1xd": lambda: nn.Conv2d(3, 16, (1, 5), stride=(1, 2)),
}


def methods():
    names = discover.method_names()
    assert set(LADDERS) == set(names), "every method needs its ladder of settings here"
    return names


def config_of(name, settings):
    return discover.method(name).Config(**settings)


def inputs_for(layer, seed=0):
    """Second moment of inputs with very unequal channels, some of them always zero."""
    n = weight_matrix(layer).shape[1]
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(500, n, generator=generator)
        @ torch.randn(n, n, generator=generator)
        * torch.rand(n, generator=generator)
    )
    x[:, : n // 4] = 0
    return Inputs(x.T @ x / len(x), len(x))


def compressed(name, layer, settings, inputs=None, seed=0):
    method, config = discover.method(name), config_of(name, settings)
    assert method.refuse(layer, config) == ""
    return method.compress(layer, config, inputs, seed)


def error(before, after):
    w = weight_matrix(before)
    return float((w - after.decode()).norm() / w.norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", methods())
def test_says_what_it_is(name):
    method = discover.method(name)
    assert method.__doc__.strip().splitlines()[0].endswith(".")
    assert set(method.KINDS) <= {"dense", "conv", "embedding"}


@pytest.mark.parametrize("name", methods())
def test_config_round_trips_through_json_and_is_frozen(name):
    for settings in LADDERS[name] + EXTRA[name]:
        config = config_of(name, settings)
        assert type(config).model_validate_json(config.model_dump_json()) == config
        with pytest.raises(ValueError):
            setattr(config, next(iter(settings)), None)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", methods())
def test_predicted_bytes_are_stored_bytes_and_the_layer_still_fits(name, kind, calibrated):
    layer = LAYERS[kind]()
    for settings in [{}, *LADDERS[name], *EXTRA[name]]:
        after = compressed(name, layer, settings, inputs_for(layer) if calibrated else None)
        stored = sum(parameter_bytes(module) for module in after.modules())
        assert stored == discover.method(name).predict(layer, config_of(name, settings)).bytes
        x = torch.randn(2, 1 if kind_of(layer) == "other" else weight_matrix(layer).shape[1])
        if kind_of(layer) == "conv":
            x = torch.randn(2, layer.in_channels, 9, 9)
        assert after(x).shape == layer(x).shape
        assert all(t.isfinite().all() for t in after.state_dict().values())


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("name", methods())
def test_reproduces_the_layer_at_full_budget(name, calibrated):
    for kind in ("dense", "conv", "fewer rows than codewords"):
        layer = LAYERS[kind]()
        settings = {**LADDERS[name][-1], "codebook_dtype": "float32"}
        after = compressed(name, layer, settings, inputs_for(layer) if calibrated else None)
        assert error(layer, after) < 1e-3


@pytest.mark.parametrize("name", methods())
def test_error_does_not_rise_with_budget(name):
    """Fixed seed; 2 % slack, for k-means ends in local optima."""
    layer = nn.Linear(64, 256)
    predict = discover.method(name).predict
    steps = sorted(
        (predict(layer, config_of(name, s)).bytes, error(layer, compressed(name, layer, s))) for s in LADDERS[name]
    )
    for (_, larger), (_, smaller) in itertools.pairwise(steps):
        assert smaller <= 1.02 * larger


@pytest.mark.parametrize("name", methods())
def test_calibration_lowers_the_error_of_the_outputs(name):
    layer = nn.Linear(64, 256)
    inputs = inputs_for(layer)

    def output_error(after):
        difference = weight_matrix(layer) - after.decode()
        return float((difference @ inputs.second_moment @ difference.T).trace())

    settings = LADDERS[name][0]
    assert output_error(compressed(name, layer, settings, inputs)) < output_error(compressed(name, layer, settings))


@pytest.mark.parametrize("name", methods())
def test_constant_and_zero_weights(name):
    for value in (0.0, 0.3):
        layer = nn.Linear(20, 40)
        nn.init.constant_(layer.weight, value)
        for inputs in (None, inputs_for(layer), Inputs(torch.zeros(20, 20), 10)):
            after = compressed(name, layer, {}, inputs)
            assert torch.allclose(after.decode(), layer.weight, atol=1e-3)


@pytest.mark.parametrize("name", methods())
def test_same_seed_same_bytes(name):
    layer = nn.Linear(40, 100)
    first, second = (compressed(name, layer, {}, inputs_for(layer), seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", methods())
def test_layers_it_cannot_take_are_refused_with_a_reason(name):
    method = discover.method(name)
    for layer in (
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(4, 8, 3, padding_mode="circular"),
    ):
        assert method.refuse(layer, method.Config())
