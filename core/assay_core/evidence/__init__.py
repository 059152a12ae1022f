"""Evidence that hardware itself signed, checked with `cryptography` alone."""
