"""What all records are."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Evidence = Literal["estimated", "host", "qemu-arm64", "ssh", "adb-shell"]
Verdict = Literal["pass", "fail", "inconclusive"]
RecoverCodes = Literal["learned", "fixed"]


class Record(BaseModel):
    """A frozen record that goes to JSON and back; unknown fields are refused.

    Validators are built when a record is first made: a listing that makes few must not wait for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
