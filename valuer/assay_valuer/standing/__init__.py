"""What we currently believe about a GPU: presence, incidents, assurance, and whether it counts."""
