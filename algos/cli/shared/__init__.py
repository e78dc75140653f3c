"""Parts that several commands share: training runs, their folders, displays and evaluations."""
