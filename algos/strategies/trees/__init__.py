"""Parts that play a prompt as a tree of completions."""
