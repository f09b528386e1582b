"""One file, one compression method. A method module has

- a docstring whose first line says what it does,
- `KINDS`: the kinds of layers it takes by default,
- `CANDIDATES`: the settings that `auto` tries, as after `--set`; its defaults alone if there is no such list,
- `MOMENTS = False` if no second moments of the inputs decide what becomes of the weights,
- `CODES = True` if what it makes are codebook layers, which can take the place of a layer in a finished file,
- `Config`: a frozen record of its settings, with defaults that work; its `KNOB`, if there is one, is the setting that
  decides how many bytes the layer takes (see `records.Knob`); its `FINER` are two steps of finer settings, for nets
  that the defaults would ruin (see `auto.finer`),
- `predict(layer, config) -> Cost`: what the compressed layer stores and computes; exact for bytes,
- `compress(layer, config, inputs, seed) -> nn.Module`: the layer that takes its place; `inputs` may be None,
- `refuse(layer, config) -> str`: why it cannot take a layer, empty if it can.

A factorization also has `structure(layer, config)`, its parts without weights, which other methods can code, and
`settle(layer, config)`, the config with its criterion turned into a rank: see `lowrank.interface`.

A method whose layers can share parts says `SHARES_FACTORS = True` and has for layers of equal shape `settle_together`,
`refuse_together`, `predict_together`, `compress_together`, and `fit_outputs` for each of them: see `coupled_tt`.

A method that rounds weights and inputs to integers says with `arithmetic(config)` how many bits, see `integers`;
whether there is a kernel for that, the runtime is asked.

A method that takes channels out of the net says `PRUNES = True`; `KINDS` are then the layers that give them out. It has
no `predict`, `compress` and `refuse` as above, but, on a `pruning.state.PruningState`,
- `score(job, group) -> Tensor`: the importance of each unit of a group, or `rank(job, groups)`, which calls
  `job.choose` for every group of a stage; `stages(job)` says which groups are one stage, where not each is,
- `Config`, a `pruning.widths.Pruned`: it decides how many channels stay; what that costs is exact,
- `FINDS_WIDTHS = True` if the scores also decide how many stay in each group; `CHOOSES_AGAIN_BY`, then, is the method
  that chooses once those numbers are known, if it is not by the same scores,
- `NEEDS_DATA = False` if it can do without data,
- `refuse(group, net) -> str`: why it cannot rank a group, if there are such.

The file is the registration: `edgecomp.discover` finds it.
"""
