"""int4: weights of 4 bits with one scale per output channel, multiplied as integers.

Ŵ = α·Q, Q integers from −8 to 7, two weights a byte. α is that of the least squared error, with calibration inputs
that of the outputs, and Q then by error feedback; see `integers`.
"""

from ..fitting.integers import CalibratedConfig as Config
from ..fitting.integers import interface

__all__ = ["KINDS", "Config", "arithmetic", "compress", "predict", "refuse"]

KINDS = ("dense", "conv", "embedding")

refuse, predict, compress, arithmetic = interface(4)
