"""The papers' experiments: their measures against oracles, and a quick run of each through the command line."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from edgecomp import discover, papers
from edgecomp.chain import parse
from edgecomp.load import load
from edgecomp.papers import cosine_svd
from edgecomp.papers._ranks import Cut, RankBench, Strategy
from edgecomp.records import Request
from edgecomp.report import markdown
from edgecomp.training.metrics import average_precisions


def test_retrieval_is_scored_as_scikit_learn_does():
    features, targets = torch.randn(60, 8), torch.randint(0, 4, (60,))
    unit = torch.nn.functional.normalize(features, dim=1)
    expected = []
    for query in range(20):
        others = [i for i in range(60) if i != query]
        scores = (unit[others] @ unit[query]).numpy()
        expected.append(average_precision_score((targets[others] == targets[query]).numpy(), scores))
    assert average_precisions(features, targets, queries=20).mean().item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_markdown_table():
    assert markdown.table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "|---|---:|", "| x | 1 |"]


@pytest.fixture(scope="module")
def rank_bench(tmp_path_factory):
    chains = parse(cosine_svd._EXPRESSION, cosine_svd._SETTINGS)
    results = tmp_path_factory.mktemp("ranks") / "kept.json"
    return RankBench(load(Request(model="fashion")), results, chains, samples=500)


def test_nets_are_cut_to_the_ranks_and_weights_of_the_methods(rank_bench):
    ranks = rank_bench.ranks(0.8, Strategy(None))
    chains = {c.name: c for c in parse(cosine_svd._EXPRESSION, (*cosine_svd._SETTINGS, "cosine=0.8"))}
    net = rank_bench._net(ranks)
    for layer in rank_bench.layers:
        chain = chains[layer.chain.name].settled(layer.module)
        assert chain.configs[0].rank == ranks[layer.name]
        expected = chain.compress(layer.module, None, 0).decode()
        assert torch.allclose(net.get_submodule(layer.name).decode(), expected, atol=1e-5)
    assert rank_bench.cut(ranks).weights == pytest.approx(
        100 * (1 - sum(p.numel() for p in net.parameters()) / rank_bench.model.parameters)
    )


def test_the_strategy_says_which_layers_are_cut(rank_bench):
    every = rank_bench.ranks(0.8, Strategy(None))
    assert list(every) == ["features.0", "features.4", "dense1", "dense2"]
    half = rank_bench.ranks(0.8, Strategy(0.5))
    assert half.items() < every.items() and "dense2" not in half  # 5 of rank 10 is more than half
    assert list(rank_bench.ranks(0.8, Strategy(1.0, share=0.1))) == ["dense1"]


def test_the_search_is_asked_for_the_fewest_weights_within_the_loss():
    cuts = [
        Cut(ranks={}, weights=w, macs=0, loss=loss, seconds=1) for w, loss in ((10, 0.5), (90, 5), (40, 1), (30, 0))
    ]
    search = cosine_svd.Search(trials=cuts, seconds=[1.0] * 4)
    assert search.best.weights == 40
    assert (search.reached(10), search.reached(20), search.reached(50)) == (1, 3, None)


CHARACTERS = {"jaderberg2014", "lebedev2015"}  # of one net, which is trained once


@pytest.mark.parametrize(
    "paper",
    [
        pytest.param(name, marks=pytest.mark.xdist_group("charnet" if name in CHARACTERS else name))
        for name in discover.module_names(papers)
    ],
)
def test_quick_reproduction_writes_its_page_and_goes_on_where_it_stopped(edgecomp, fresh_cache, tmp_path, paper):
    cache = {"EDGECOMP_CACHE": str(fresh_cache("weights"))}
    done = edgecomp("reproduce", paper, "--quick", "-o", "docs", **cache)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "docs" / f"{paper}.md").read_text()
    for figure in tmp_path.glob("docs/*.svg"):
        assert figure.name in page
    assert page.count("holds") + page.count("does not hold") >= 8 and f"reproduce {paper} --quick" in page
    again = edgecomp("reproduce", paper, "--quick", "-o", "docs", **cache)
    assert again.returncode == 0 and (tmp_path / "docs" / f"{paper}.md").read_text() == page
    assert len(again.stderr) < len(done.stderr)


def test_unknown_paper_names_the_nearest(edgecomp):
    done = edgecomp("reproduce", "gong2015")
    assert done.returncode == 2 and "gong2014" in done.stderr
