"""How good the forecasts are: every origin of the past, with what was known then and nothing else."""
