"""`edgecomp sweep`: builds of many budgets and methods, and the front of the best."""

from .sweep import check, sweep

__all__ = ["check", "sweep"]
