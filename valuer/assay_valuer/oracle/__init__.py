"""From a position to a final report on the chain: signed by a quorum, sent once, read back."""
