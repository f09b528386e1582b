"""One file, one paper: `edgecomp reproduce PAPER` measures its claims on this machine and writes `PAPER.md`.

A paper's module has a docstring whose first line names it, and `run(folder, quick) -> list[Claim]`.
"""
