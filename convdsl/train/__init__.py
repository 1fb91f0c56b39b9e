"""Training: from a network and data to a checkpointed, evaluated model.

The loop, the devices and precision are Lightning's; this room adds what surrounds them: readers of
data sets (`data/`), recipes, checkpoints without pickle, guards, and what people see. Floor 7,
beside the command line, which imports it late: nothing else of convdsl does.
"""
