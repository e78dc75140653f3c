"""Parts that decide what is kept, reused and weighted."""
