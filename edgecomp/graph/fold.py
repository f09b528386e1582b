"""Batch norms right behind a convolution or dense layer become part of its weights.

What is compressed then is what runs on the device; runtimes fold the rest the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn.utils import fusion

from .constants import Constants

_aten = torch.ops.aten
CONVOLUTIONS = {
    _aten.conv1d.default: 1,
    _aten.conv1d.padding: 1,
    _aten.conv2d.default: 2,
    _aten.conv2d.padding: 2,
    _aten.conv3d.default: 3,
    _aten.conv3d.padding: 3,
}
TRANSPOSED = {_aten.conv_transpose1d.default: 1, _aten.conv_transpose2d.input: 2, _aten.conv_transpose3d.input: 3}


def fold_norms(constants: Constants) -> None:
    """Folds every batch norm that works with fixed statistics on what one layer gives to it alone, once."""
    for node in list(constants.graph.nodes):
        if node.target == _aten.batch_norm.default:
            _fold(constants, node)


def _fold(constants: Constants, norm: fx.Node) -> None:
    layer, gamma, beta, mean, variance, training, _, eps, *_ = norm.args
    if training or not isinstance(layer, fx.Node) or not _foldable(constants, layer):
        return
    statistics = [constants.value(mean), constants.value(variance)]
    if any(value is None for value in statistics):
        return
    weight, bias = constants.value(layer.args[1]), constants.value(_argument(layer, 2))
    affine = constants.value(gamma), constants.value(beta)
    if layer.target == _aten.linear.default:
        folded = fusion.fuse_linear_bn_weights(weight, bias, *statistics, eps, *affine)
    else:
        transposed = layer.target in TRANSPOSED
        folded = fusion.fuse_conv_bn_weights(weight, bias, *statistics, eps, *affine, transpose=transposed)
    with constants.graph.inserting_before(layer):
        owner, shift = constants.owner(layer.args[1]), constants.owner(beta) if beta is not None else ""
        nodes = [constants.add(tensor.detach(), owner, shift) for tensor in folded]
    layer.args = (layer.args[0], *nodes, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    constants.graph.erase_node(norm)


def _foldable(constants: Constants, layer: fx.Node) -> bool:
    """It has a constant weight that no other operator takes, and gives channels where the norm wants them."""
    spatial = CONVOLUTIONS.get(layer.target, TRANSPOSED.get(layer.target))
    if spatial is None and layer.target != _aten.linear.default:
        return False
    weight, bias = layer.args[1], _argument(layer, 2)
    value = layer.meta["val"]
    groups = _argument(layer, 6, 1) if layer.target in TRANSPOSED else 1
    return (
        len(layer.users) == 1
        and constants.value(weight) is not None
        and (bias is None or constants.value(bias) is not None)
        and all(len(source.users) == 1 for source in (weight, *weight.all_input_nodes))
        and isinstance(value, Tensor)
        and value.dim() == (2 if spatial is None else spatial + 2)
        and groups == 1
    )


def _argument(node: fx.Node, place: int, default: object = None) -> object:
    return node.args[place] if len(node.args) > place else default
