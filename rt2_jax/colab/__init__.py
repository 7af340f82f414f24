"""Notebooks that inspect a checkpoint, a policy and a robot data set, and their figures.

Figures are made without pyplot, so that a cell shows what it returns and nothing twice.
"""
