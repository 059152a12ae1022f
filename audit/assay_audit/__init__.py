"""The auditor's tool: checks what Assay says against the signed bytes, offline, from core alone."""

from typing import Final

VERSION: Final = "0.1.0"
