"""What agent, valuer and an outside auditor share: pure, and nothing that one of them could do without."""
