"""The numerics of the methods: calibration, codebooks, integers, low ranks, the order of channels."""
