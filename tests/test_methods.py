"""The contract every method keeps, over all that are discovered (DESIGN.md, "A method is a file")."""

import itertools
import json

import pytest
import torch
from torch import nn

from edgecomp import chain, discover
from edgecomp.compress import replace_weights
from edgecomp.errors import UsageError
from edgecomp.fitting import calibration
from edgecomp.fitting.calibration import Inputs
from edgecomp.fitting.error_feedback import code_blocks, output_error, refine, upper_cholesky
from edgecomp.layers.matrix import kind_of, parameter_bytes, weight_matrix

# For each method, and some chains: settings from the smallest budget to the largest; the last one reproduces a small
# layer, except where no budget does.
LADDERS = {
    "pq": ["s=8 k=4", "s=4 k=8", "s=4 k=16", "s=2 k=16", "s=2 k=256", "s=1 k=256 codebook_dtype=float32"],
    "rq": ["s=8 t=1", "s=8 t=2", "s=4 t=2", "s=2 t=2 k=64", "s=2 t=2 k=256 codebook_dtype=float32"],
    "kmeans": ["k=2", "k=4", "k=16", "k=256", "k=256 rows=1 codebook_dtype=float32"],
    "palettize": ["bits=1", "bits=2", "bits=4", "bits=8", "bits=8 channels=1 codebook_dtype=float32"],
    "binary": ["ternary=false", "ternary=true"],
    "int8": [""],
    "int4": [""],
    "int2": [""],
    "svd": ["rank=0.1", "rank=0.3", "rank=0.6", "rank=1000"],
    "svd:int8": ["rank=0.1", "rank=0.3", "rank=0.6"],
    "svd:pq": ["rank=0.1 s=4", "rank=0.3 s=2", "rank=0.6 s=1 k=256", "rank=1000 s=1 k=256 codebook_dtype=float32"],
    "svd:kmeans": ["rank=0.1 k=4", "rank=0.3 k=16", "rank=1000 k=256 rows=1 codebook_dtype=float32"],
}
EXTRA = {
    "pq": [
        "axis=y",
        "codebooks=shared",
        "codebooks=3",
        "codebook_dtype=float32",
        "axis=y codebooks=shared",
        "fit=metric",
    ],
    "rq": ["codebooks=shared", "t=3 s=3", "fit=metric"],
    "kmeans": ["rows=5", "fit=metric", "fit=metric rows=5"],
    "palettize": ["channels=4"],
    "binary": ["fit=plain"],
    "int8": ["activations=static"],
    "int4": ["activations=static", "fit=plain", "passes=3"],
    "int2": ["activations=static", "fit=plain", "passes=3"],
    "svd": [],
    "svd:int8": ["activations=static"],
    "svd:pq": ["axis=y"],
    "svd:kmeans": [],
}
INTEGERS = {"int8", "int4", "int2"}
NEVER_EXACT = {"binary", *INTEGERS, "svd:int8"}  # signs are signs, and 8 bits are 8 bits: see test_quantized.py
ROUNDED_TO_NEAREST = {"int8"}  # calibration makes nothing better of its weights; it fixes scales of activations
PRUNING = {"dcp", "dcp_adapt", "random_dcp", "l1", "apoz", "thinet", "lasso", "slimming"}  # see test_pruning.py
CONVOLUTIONAL = {"scheme1", "scheme2", "tucker", "cp", "tt", "coupled_tt"}  # see test_lowrank.py

LAYERS = {
    "dense": lambda: nn.Linear(30, 64),
    "dense without bias": lambda: nn.Linear(32, 40, bias=False),
    "one row": lambda: nn.Linear(16, 1),
    "one column": lambda: nn.Linear(1, 16),
    "fewer rows than codewords": lambda: nn.Linear(20, 3),
    "conv": lambda: nn.Conv2d(4, 32, 3, padding=1),
    "conv 1x1": lambda: nn.Conv2d(16, 32, 1),
    "conv 1xd": lambda: nn.Conv2d(3, 16, (1, 5), stride=(1, 2)),
    "embedding": lambda: nn.Embedding(50, 12),
}


def methods():
    single = {name for name in LADDERS if ":" not in name}
    assert single | CONVOLUTIONAL | PRUNING == set(discover.method_names()), (
        "every method needs its ladder of settings here"
    )
    return list(LADDERS)


def chain_of(name, settings=""):
    small = ("least_rank=1",) if name.startswith("svd") else ()  # the layers here are
    return chain.parse(name, (*small, *settings.split()))[0]


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
    return Inputs.of(x)


def compressed(name, layer, settings="", inputs=None, seed=0):
    method = chain_of(name, settings)
    assert method.refuse(layer) == ""
    with torch.no_grad():
        return method.compress(layer, inputs, seed)


def error(before, after):
    w = weight_matrix(before)
    return float((w - after.decode()).norm() / w.norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", discover.method_names())
def test_says_what_it_is(name):
    method = discover.method(name)
    assert method.__doc__.strip().splitlines()[0].endswith(".")
    assert set(method.KINDS) <= {"dense", "conv", "embedding"}


@pytest.mark.parametrize("name", methods())
def test_settings_round_trip_through_the_plan_and_are_frozen(name):
    for settings in LADDERS[name] + EXTRA[name]:
        method = chain_of(name, settings)
        again = chain.restore(method.name, json.loads(json.dumps(method.settings)))
        assert again.configs == method.configs
        with pytest.raises(ValueError):
            setattr(method.configs[0], next(iter(type(method.configs[0]).model_fields)), None)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", methods())
def test_predicted_bytes_are_stored_bytes_and_the_layer_still_fits(name, kind, calibrated):
    layer = LAYERS[kind]()
    calibrated = calibrated and kind_of(layer) != "embedding"
    for settings in ["", *LADDERS[name], *EXTRA[name]]:
        after = compressed(name, layer, settings, inputs_for(layer) if calibrated else None)
        assert parameter_bytes(after, recurse=True) == chain_of(name, settings).predict(layer).bytes
        x = torch.randn(2, weight_matrix(layer).shape[1])
        if kind_of(layer) == "conv":
            x = torch.randn(2, layer.in_channels, 9, 9)
        elif kind_of(layer) == "embedding":
            x = torch.randint(layer.num_embeddings, (2, 3))
        assert after(x).shape == layer(x).shape
        assert all(t.isfinite().all() for t in after.state_dict().values())


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("name", sorted(set(LADDERS) - NEVER_EXACT))
def test_reproduces_the_layer_at_full_budget(name, calibrated):
    for kind in ("dense", "conv", "fewer rows than codewords"):
        layer = LAYERS[kind]()
        after = compressed(name, layer, LADDERS[name][-1], inputs_for(layer) if calibrated else None)
        assert error(layer, after) < 1e-3
        x = torch.randn(2, layer.in_channels, 9, 9) if kind == "conv" else torch.randn(2, layer.in_features)
        assert torch.allclose(after(x), layer(x), atol=1e-2)


@pytest.mark.parametrize("name", methods())
def test_error_does_not_rise_with_budget(name):
    """Fixed seed; 2 % slack, for k-means ends in local optima."""
    layer = nn.Linear(64, 256)
    steps = sorted(
        (chain_of(name, s).predict(layer).bytes, error(layer, compressed(name, layer, s))) for s in LADDERS[name]
    )
    for (_, larger), (_, smaller) in itertools.pairwise(steps):
        assert smaller <= 1.02 * larger + 1e-6


@pytest.mark.parametrize("name", sorted(set(LADDERS) - ROUNDED_TO_NEAREST))
def test_calibration_lowers_the_error_of_the_outputs(name):
    layer = nn.Linear(64, 256)
    inputs = inputs_for(layer)

    def error_of(after):
        return output_error(weight_matrix(layer), after.decode(), inputs.second_moment)

    settings = LADDERS[name][0]
    assert error_of(compressed(name, layer, settings, inputs)) < error_of(compressed(name, layer, settings))


@pytest.mark.parametrize("name", ["pq", "rq"])
def test_every_step_of_fitting_lowers_the_error_of_the_outputs(name):
    layer = nn.Linear(64, 256)
    inputs = inputs_for(layer)
    errors = [
        output_error(weight_matrix(layer), compressed(name, layer, s, inputs).decode(), inputs.second_moment)
        for s in ("fit=plain", "fit=metric", "fit=feedback passes=0", "fit=feedback passes=2")
    ]
    assert errors == sorted(errors, reverse=True)


def test_feedback_targets_are_those_that_minimise_the_error():
    """The error of the whole is the sum of the errors against the targets, each in its metric."""
    x = torch.randn(50, 12) @ torch.randn(12, 12)
    moment, matrix, total = x.T @ x, torch.randn(7, 12), 0.0

    def code(_, target, factor):
        nonlocal total
        coded = target.round()
        total += float(((target - coded) @ factor).square().sum())
        return coded

    coded = code_blocks(matrix, upper_cholesky(moment), 3, code)
    assert total == pytest.approx(float(((matrix - coded) @ moment * (matrix - coded)).sum()), rel=1e-3)


def test_refining_never_raises_the_error():
    x = torch.randn(50, 12) @ torch.randn(12, 12)
    moment, matrix = x.T @ x, torch.randn(7, 12)

    def code(_, target, factor):
        return target.round()

    coded = code_blocks(matrix, upper_cholesky(moment), 1, code)
    for _ in range(3):
        refined = refine(matrix, coded, moment, 1, code)
        assert output_error(matrix, refined, moment) <= output_error(matrix, coded, moment) + 1e-5
        coded = refined


@pytest.mark.parametrize("name", methods())
def test_constant_and_zero_weights(name):
    for value in (0.0, 0.3):
        layer = nn.Linear(20, 40)
        nn.init.constant_(layer.weight, value)
        for inputs in (None, inputs_for(layer), Inputs(torch.zeros(20, 20), torch.zeros(5, 20), torch.zeros(20))):
            after = compressed(name, layer, "", inputs)
            slack = 0.25 * value if ":" in name else 0.0  # the parts of a constant are not constant
            assert torch.allclose(after.decode(), layer.weight, atol=2e-3 + slack)


@pytest.mark.parametrize("name", methods())
def test_same_seed_same_bytes(name):
    layer = nn.Linear(40, 100)
    first, second = (compressed(name, layer, "", inputs_for(layer), seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", methods())
def test_layers_it_cannot_take_are_refused_with_a_reason(name):
    assert bool(chain_of(name).refuse(nn.Conv2d(8, 8, 3, groups=2))) == (name not in INTEGERS)
    assert bool(chain_of(name).refuse(nn.Conv2d(8, 8, 3, groups=8))) == (name not in INTEGERS)
    for layer in (
        nn.Conv2d(4, 8, 3, padding_mode="circular"),
        nn.Conv2d(4, 8, 2, padding="same"),
        nn.Embedding(9, 4, max_norm=1.0),
    ):
        assert chain_of(name).refuse(layer)


@pytest.mark.parametrize(
    "expression, settings, message",
    [
        ("svd:pp", (), "pq"),
        ("pq:svd", (), r"pq\+svd"),
        ("svd:pq", ("k",), "KEY=VALUE"),
        ("svd:pq", ("rnk=3",), "rank"),
        ("svd:pq", ("kmeans.k=3",), "kmeans"),
        ("pq+kmeans", ("pq.kk=3",), "k"),
        ("pq+kmeans", ("kmeans.kinds=cnv",), "conv"),
        ("pq", ("k=1",), "k=1"),
    ],
)
def test_a_wrong_expression_or_setting_is_named(expression, settings, message):
    with pytest.raises(UsageError, match=message):
        chain.parse(expression, settings)


def test_settings_reach_the_methods_they_are_for():
    first, second = chain.parse("svd:pq+kmeans", ("k=8", "kmeans.k=4", "rank=7", "kmeans.kinds=conv"))
    assert first.settings["pq.k"] == 8 and second.settings["k"] == 4 and first.settings["svd.rank"] == 7
    assert first.kinds == ("dense", "embedding") and second.kinds == ("conv",)


def test_no_moments_are_kept_of_very_many_inputs(monkeypatch):
    """Their square would take the memory of the machine. The layer is coded without them, but for its bias."""
    monkeypatch.setattr(calibration, "_WIDEST", 63)
    layer, x = nn.Linear(64, 32).eval(), torch.randn(200, 64) + 3
    net = nn.Sequential(layer)
    inputs = calibration.gather(net, layer, x)
    assert inputs.covariance.numel() == 0 and "64 inputs" in inputs.unfit
    assert torch.allclose(calibration.pooled([inputs, inputs]).mean, inputs.mean)
    expected = layer(x)
    made = replace_weights(layer, chain.parse("pq", ())[0], inputs, 0)
    assert ((made(x) - expected).mean(0).abs() < 1e-3).all()
