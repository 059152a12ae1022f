"""What things are worth on a market: price tables, and which product a GPU is."""
