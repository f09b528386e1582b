"""The frozen records that the stages hand on, and `report.json` (schema "edgecomp.report/1").

Units are part of the names: `size_bytes`, `latency_ms`. Percentages are 0–100.
"""

from .asked import Data, Limits, Model, Request, Split
from .base import Evidence, Record, Verdict
from .made import (
    Accuracy,
    Artifact,
    Compressed,
    EmulatorCheck,
    LayerReport,
    LayerTime,
    Measured,
    Measurement,
    OutputError,
    Proof,
)
from .planned import ChannelGroup, Cost, Knob, Look, Plan, PlanEntry, Pruning, RunnerUp, Search
from .reported import (
    BudgetReport,
    Environment,
    LimitReport,
    ModelReport,
    Report,
    SizeReport,
    Sweep,
    SweepPoint,
    SweepRequest,
)

__all__ = [
    "Accuracy",
    "Artifact",
    "BudgetReport",
    "ChannelGroup",
    "Compressed",
    "Cost",
    "Data",
    "EmulatorCheck",
    "Environment",
    "Evidence",
    "Knob",
    "LayerReport",
    "LayerTime",
    "LimitReport",
    "Limits",
    "Look",
    "Measured",
    "Measurement",
    "Model",
    "ModelReport",
    "OutputError",
    "Plan",
    "PlanEntry",
    "Proof",
    "Pruning",
    "Record",
    "Report",
    "Request",
    "RunnerUp",
    "Search",
    "SizeReport",
    "Split",
    "Sweep",
    "SweepPoint",
    "SweepRequest",
    "Verdict",
]
