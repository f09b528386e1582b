"""How codes lie in memory: the same bytes in the checkpoint, in the exported file and under the kernel.

Codes form a grid of `blocks` × `lanes`: with segments along the rows of W (axis x) a block is a segment of the
columns and a lane is a row; with segments down the columns (axis y) it is the other way round. Lanes are cut into
tiles, the last one padded with code 0. The order is tile, block, stage; one such cell holds `tile` codes of `bits`
bits each, split into bit planes whose widths are the powers of two that add up to `bits`, widest (and lowest bits)
first. In a plane of width w, lane l of the tile is in byte l mod (tile·w/8), shifted left by w·(l div (tile·w/8)).

With 4 bits and tiles of 128 a cell is 64 bytes, a line of the cache: low nibbles are lanes 0–63, high nibbles lanes
64–127. Every 16 bytes are what one table-lookup instruction takes, for 32 lanes.
"""

import torch

_TILES = (128, 64, 32, 16, 8)


def bits_per_code(k: int) -> int:
    """Bits that tell `k` codewords apart: 16 → 4, 9 → 4, 1 → 1."""
    return max(1, (k - 1).bit_length())


def best_tile(lanes: int) -> int:
    """The widest tile whose padding stays within an eighth of the lanes; the narrowest if none does."""
    return next((tile for tile in _TILES if _padded(lanes, tile) <= 1.125 * lanes), _TILES[-1])


def packed_bytes(stages: int, blocks: int, lanes: int, bits: int, tile: int) -> int:
    """Size of `pack`'s result; padding counts."""
    return _padded(lanes, tile) * blocks * stages * bits // 8


def pack(codes: torch.Tensor, bits: int, tile: int) -> torch.Tensor:
    """Packs codes.

    Args:
        codes: (stages, blocks, lanes), integers below 2**bits.
        bits: 1 to 8.
        tile: lanes per tile, a multiple of 8.

    Returns:
        (packed_bytes,) uint8.
    """
    stages, blocks, lanes = codes.shape
    padded = torch.zeros(stages, blocks, _padded(lanes, tile), dtype=torch.uint8)
    padded[:, :, :lanes] = codes
    cells = padded.reshape(stages, blocks, -1, tile).permute(2, 1, 0, 3)
    packed = [_pack_plane(cells >> shift, width) for shift, width in planes(bits)]
    return torch.cat(packed, dim=-1).reshape(-1)


def unpack(packed: torch.Tensor, stages: int, blocks: int, lanes: int, bits: int, tile: int) -> torch.Tensor:
    """The inverse of `pack`: (stages, blocks, lanes) uint8."""
    cells = packed.reshape(-1, blocks, stages, tile * bits // 8)
    codes = torch.zeros(*cells.shape[:3], tile, dtype=torch.uint8)
    start = 0
    for shift, width in planes(bits):
        size = tile * width // 8
        codes |= _unpack_plane(cells[..., start : start + size], width) << shift
        start += size
    return codes.permute(2, 1, 0, 3).reshape(stages, blocks, -1)[:, :, :lanes]


def pack_signed(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs signed integers side by side, the first in the lowest bits: as `.tflite` files hold INT4 and INT2.

    Args:
        values: integers from −2**(bits−1) to 2**(bits−1) − 1; their order is that of the flat tensor.
        bits: 1, 2, 4 or 8.

    Returns:
        (⌈numel·bits/8⌉,) uint8, two's complement; zeros fill the last byte.
    """
    fields = values.reshape(-1).to(torch.int8).view(torch.uint8) & (2**bits - 1)
    fields = torch.nn.functional.pad(fields, (0, -len(fields) % (8 // bits))).unflatten(0, (-1, 8 // bits))
    packed = torch.zeros(len(fields), dtype=torch.uint8)
    for place in range(8 // bits):
        packed |= fields[:, place] << bits * place
    return packed


def unpack_signed(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The inverse of `pack_signed`: (count,) int8."""
    raised = torch.stack([packed << 8 - bits * (place + 1) for place in range(8 // bits)], 1)  # sign in the highest bit
    return (raised.view(torch.int8) >> 8 - bits).flatten()[:count]


def _padded(lanes: int, tile: int) -> int:
    return -(-lanes // tile) * tile


def planes(bits: int) -> list[tuple[int, int]]:
    """(shift, width) of each bit plane: 3 bits → [(0, 2), (2, 1)]."""
    found, shift = [], 0
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append((shift, width))
            shift += width
    return found


def _pack_plane(cells: torch.Tensor, width: int) -> torch.Tensor:
    fields = (cells & (2**width - 1)).unflatten(-1, (8 // width, -1))
    shifts = width * torch.arange(8 // width, dtype=torch.uint8)[:, None]
    return (fields << shifts).sum(-2, dtype=torch.uint8)


def _unpack_plane(plane: torch.Tensor, width: int) -> torch.Tensor:
    shifts = width * torch.arange(8 // width, dtype=torch.uint8)[:, None]
    return ((plane[..., None, :] >> shifts) & (2**width - 1)).flatten(-2)
