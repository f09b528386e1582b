"""The papers' experiments: their measures against oracles, and a quick run of each through the command line."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from edgecomp import discover, papers
from edgecomp.papers._bench import markdown_table, mean_average_precision


def test_retrieval_is_scored_as_scikit_learn_does():
    features, targets = torch.randn(60, 8), torch.randint(0, 4, (60,))
    unit = torch.nn.functional.normalize(features, dim=1)
    expected = []
    for query in range(20):
        others = [i for i in range(60) if i != query]
        scores = (unit[others] @ unit[query]).numpy()
        expected.append(average_precision_score((targets[others] == targets[query]).numpy(), scores))
    assert mean_average_precision(features, targets, queries=20) == pytest.approx(np.mean(expected), abs=1e-6)


def test_markdown_table():
    assert markdown_table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "|---|---:|", "| x | 1 |"]


@pytest.mark.parametrize("paper", discover.module_names(papers))
def test_quick_reproduction_writes_its_page_and_goes_on_where_it_stopped(edgecomp, tmp_path, paper):
    cache = {"EDGECOMP_CACHE": str(tmp_path / "cache")}
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
