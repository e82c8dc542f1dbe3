"""Types of fields: text of the environment -> value, refused by values.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from appliance import values

Ports = Annotated[str, BeforeValidator(values.ports)]
Vnis = Annotated[str, BeforeValidator(values.vnis)]
Switch = Annotated[bool, NoDecode, BeforeValidator(values.flag)]
Size = Annotated[int, NoDecode, BeforeValidator(values.size)]


class Fields(BaseSettings):
    """One field a variable; the alias is its name."""

    model_config = SettingsConfigDict(
        extra="ignore", case_sensitive=True, frozen=True, env_ignore_empty=True, arbitrary_types_allowed=True
    )
