"""`--method auto`: the plan finds itself.

`candidates` says what could become of each layer, with exact bytes; `trials` what each candidate does to the outputs
when it alone is put into the net; `knapsack` chooses one for every layer within the limits; `search` builds what was
chosen, looks at the real figures on the calibration split, and chooses again. The test split is never looked at.
"""

from .candidates import Group
from .options import check
from .search import plan, search

__all__ = ["Group", "check", "plan", "search"]
