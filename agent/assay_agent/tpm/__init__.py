"""The host's TPM 2.0: the keys that live in it, and what it attests. No TSS: see ADR 13."""
