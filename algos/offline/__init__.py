"""Training from rollouts that were collected before."""
