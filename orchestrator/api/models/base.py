"""What all of the API's models share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Closed: a key that is not here is a mistake."""

    model_config = ConfigDict(extra="forbid")
