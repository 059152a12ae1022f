"""The auditor's tool: checks what Assay says against the signed bytes, offline, from core alone."""
