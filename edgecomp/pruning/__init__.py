"""Channel pruning: `groups` says which channels can only go together, `widths` how many of each group stay, a method
in `edgecomp/methods/` which ones, `surgery` takes the others out, and `tuning` trains what is left."""
