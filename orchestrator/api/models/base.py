"""What all of the API's models share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from orchestrator.spec.names import NAME_PATTERN

JOB_PATTERN = NAME_PATTERN[:-1] + r"(\.[1-9][0-9]{0,8})?$"


class Model(BaseModel):
    """Closed: a key that is not here is a mistake."""

    model_config = ConfigDict(extra="forbid")
