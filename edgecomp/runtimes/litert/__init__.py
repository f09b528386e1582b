"""LiteRT: what every runtime has, see `edgecomp.runtimes`; and .tflite files read and coded in place."""

from .export import SUFFIX, constants, export, operators, prefers_static, refuse, signature, stored, version

__all__ = ["SUFFIX", "constants", "export", "operators", "prefers_static", "refuse", "signature", "stored", "version"]
