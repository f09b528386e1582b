"""int8: weights of 8 bits with one scale per output channel, multiplied as integers.

Ŵ = α·Q, Q integers from −127 to 127, α = max|w|/127 of each row (Jacob et al. 2018, §2.1; per channel: Krishnamoorthi
2018, §3.1). Rounding to nearest is enough: on the default model the best α by ‖W−Ŵ‖² lowers that by under 1 %, and
`error_feedback`, which halves the error of the outputs, keeps no more answers: that of the inputs stays.
"""

from ..fitting.integers import Config, interface

__all__ = ["KINDS", "MOMENTS", "Config", "arithmetic", "compress", "predict", "refuse"]

KINDS = ("dense", "conv", "embedding")
MOMENTS = False

refuse, predict, compress, arithmetic = interface(8)
