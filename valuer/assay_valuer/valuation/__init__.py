"""What a GPU is worth, under a stated premise, with the reason for each factor."""
