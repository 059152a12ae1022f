"""The valuer: verifies sealed windows, keeps them, values collateral and keeps its oracle up to date."""
