"""The small data sets of tests/data, for journeys from data to a robot."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'data'))
