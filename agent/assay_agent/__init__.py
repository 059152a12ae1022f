"""The agent: reads a host's GPUs, seals what it saw, and sends it to a valuer."""

from typing import Final

VERSION: Final = "0.1.0"
