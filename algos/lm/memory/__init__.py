"""How much memory a training needs, how much there is, and what to do if it is short."""
