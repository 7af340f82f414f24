"""Notebooks that look into a checkpoint, a policy and a robot data set, and what they draw with.

Figures are made without pyplot, so that a cell shows what it returns and nothing twice.
"""
