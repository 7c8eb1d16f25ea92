"""What an engine offers besides free instructions: for clients that let people choose."""

from pydantic import BaseModel, ConfigDict


class Instruction(BaseModel):
    """An instruction that an engine knows, in the words that a prompt may have."""

    model_config = ConfigDict(frozen=True)

    en: str
    """In English."""
    zh: str
    """In Chinese."""


class Offers(BaseModel):
    """What a worker tells in its status file of its engine."""

    model_config = ConfigDict(frozen=True)

    instructions: tuple[Instruction, ...] = ()
    """Where the engine knows only these; empty where it takes any."""
    presets: tuple[str, ...] = ()
