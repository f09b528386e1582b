"""Layers seen as matrices: what kind a layer is, its weight as W (m×n), and its inputs as rows of length n."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codebook import CodebookConv2d, CodebookEmbedding, CodebookLinear, Coded, CodeFormat, Tables
from .quantized import Arithmetic, Quantized, QuantizedConv2d, QuantizedLinear

KINDS = ("dense", "conv", "embedding")


def parameter_bytes(module: nn.Module, recurse: bool = False) -> int:
    """Bytes of the tensors a module owns itself, or with its children."""
    tensors = [*module.parameters(recurse), *module.buffers(recurse)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kind_of(module: nn.Module) -> str:
    """'dense', 'conv', 'embedding', or 'other' for a module that owns parameters of another sort."""
    if isinstance(module, nn.Linear):
        return "dense"
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "other"


def weight_matrix(layer: nn.Module) -> Tensor:
    """W (m×n) fp32, detached: for a convolution columns run over (height, width, input channel)."""
    weight = layer.weight.detach().float()
    return weight.permute(0, 2, 3, 1).flatten(1) if kind_of(layer) == "conv" else weight


def set_weight_matrix(layer: nn.Module, matrix: Tensor) -> None:
    """The inverse of `weight_matrix`."""
    shape = layer.weight.shape
    if kind_of(layer) == "conv":
        matrix = matrix.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
    layer.weight.data.copy_(matrix)


def input_rows(layer: nn.Module, x: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """The inputs of a dense or convolution layer as rows (N, n) of what its matrix multiplies.

    Args:
        x: what the layer is called with.
        limit: at most so many rows, a sample of those there are; convolutions have one per output pixel.
    """
    if kind_of(layer) == "dense":
        rows = x.reshape(-1, x.shape[-1])
        return rows if len(rows) <= limit else rows[torch.randperm(len(rows), generator=generator)[:limit].sort()[0]]
    (top, left), (tall, wide), (down, across) = explicit_padding(layer), layer.kernel_size, layer.dilation
    padded = F.pad(x, (left, left, top, top))
    height, width = (
        (size - d * (k - 1) - 1) // step + 1
        for size, d, k, step in zip(padded.shape[2:], layer.dilation, layer.kernel_size, layer.stride, strict=True)
    )
    per_image = max(1, min(height * width, limit // len(x)))
    chosen = torch.randperm(height * width, generator=generator)[:per_image]
    rows = (chosen // width * layer.stride[0])[:, None] + down * torch.arange(tall)
    columns = (chosen % width * layer.stride[1])[:, None] + across * torch.arange(wide)
    patches = padded[:, :, rows[:, :, None], columns[:, None, :]]  # (N, S, pixels, h, w)
    return patches.permute(0, 2, 3, 4, 1).reshape(len(x) * per_image, -1)


def unsupported(layer: nn.Module) -> str:
    """Why a layer of a codable kind cannot become a codebook layer; empty if it can."""
    if kind_of(layer) == "conv" and layer.groups != 1:
        return f"a convolution in {layer.groups} groups has no single matrix"
    if kind_of(layer) == "embedding" and layer.max_norm is not None:
        return "an embedding with max_norm changes its weights as it runs"
    return unpaddable(layer)


def unpaddable(layer: nn.Module) -> str:
    """Why the padding of a convolution is not so many zeros on both sides; empty if it is."""
    if kind_of(layer) == "conv":
        if layer.padding_mode != "zeros":
            return f"padding mode {layer.padding_mode!r} is not supported by the kernels"
        if layer.padding == "same" and any(
            d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ):
            return "padding 'same' of an even kernel is not the same on both sides"
    return ""


def one_channel_per_group(layer: nn.Module) -> bool:
    """A depthwise convolution, or one of a single channel: kernels treat both alike."""
    return kind_of(layer) == "conv" and layer.in_channels == layer.groups


def has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


def bias_of(replacement: nn.Module) -> Tensor:
    """The bias of a compressed layer: that of its last part."""
    return (replacement[-1] if isinstance(replacement, nn.Sequential) else replacement).bias  # type: ignore[return-value]


def coded_layer(
    layer: nn.Module,
    format: CodeFormat,
    codes: Tensor,
    codebook: Tensor,
    scale: Tensor | None = None,
    tables: Tables | None = None,
) -> Coded:
    """The codebook layer that takes the place of `layer`; shapes as in `Coded.store`."""
    bias = layer.bias if has_bias(layer) else None
    if kind_of(layer) == "dense":
        coded: Coded = CodebookLinear(format, bias is not None, tables)
    elif kind_of(layer) == "embedding":
        coded = CodebookEmbedding(format, False)
    else:
        geometry = {
            "kernel": list(layer.kernel_size),
            "stride": list(layer.stride),
            "padding": list(explicit_padding(layer)),
            "dilation": list(layer.dilation),
        }
        coded = CodebookConv2d(format, bias is not None, geometry, tables)
    coded.store(codes, codebook, scale, bias)
    return coded


def quantized_layer(layer: nn.Module, codes: Tensor, scale: Tensor, arithmetic: Arithmetic) -> Quantized:
    """The layer of few bits that takes the place of `layer`; shapes as in `Quantized.store`."""
    common = {"shape": list(layer.weight.shape), "bias": has_bias(layer), **arithmetic._asdict()}
    if kind_of(layer) == "dense":
        quantized: Quantized = QuantizedLinear(**common)
    else:
        geometry = {
            "stride": list(layer.stride),
            "padding": list(explicit_padding(layer)),
            "dilation": list(layer.dilation),
            "groups": layer.groups,
        }
        quantized = QuantizedConv2d(geometry, **common)
    quantized.store(codes, scale, layer.bias if has_bias(layer) else None)
    return quantized


def explicit_padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        height, width = (d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return height, width
    return tuple(layer.padding)  # type: ignore[return-value]
