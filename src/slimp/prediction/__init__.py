"""New images through a saved probe: probabilities, sets, nearest cases, and when to refuse."""
