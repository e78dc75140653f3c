"""Says in words what keeps a training from learning, each thing once and with a remedy.

`watch` is what a trainer calls after each step. `rules` has a function for each thing that can be
wrong, with its thresholds and the reason for each. `facts` makes the few numbers that the rules
read, and `answers` compares what was answered with what was expected. `metric_table` says what each
metric means, and what a healthy range of it is.
"""
