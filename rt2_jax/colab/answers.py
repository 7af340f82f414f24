"""Answers to questions about a picture, and the places that they speak of."""

from collections.abc import Mapping, Sequence
import re

from IPython.display import HTML
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours, table

PLACE = 1000  # an answer's u and v are thousandths of the picture's sides
_PLACE = re.compile(r'\d+ \d+')


def questions(asked: str, objects: Sequence[str]) -> list[str]:
    """What was asked, parted by semicolons; where everything is, if nothing was."""
    given = [question.strip() for question in asked.split(';') if question.strip()]
    return given or [f'where is the {name}' for name in objects] or ['what is in the image']


def show(answered: Mapping[str, str]) -> HTML:
    """Questions and answers, one a row."""
    return table.show(('question', 'answer'), list(answered.items()))


def draw(picture: np.ndarray, answered: Mapping[str, str]) -> Figure:
    """The picture, with a cross wherever an answer is a place ("490 370": to the right, down)."""
    places = {q: a for q, a in answered.items() if _PLACE.fullmatch(a)}
    figure, axis = on_picture(picture, 5)
    height, width = picture.shape[:2]
    for (question, answer), colour in zip(places.items(), colours.CYCLE * 9):
        u, v = (int(number) / PLACE for number in answer.split())
        x, y = u * width - 0.5, v * height - 0.5
        axis.plot(x, y, '+', color='white', markersize=26, markeredgewidth=6)
        axis.plot(x, y, '+', color=colour, markersize=24, markeredgewidth=3, label=question)
    if places:
        figure.legend(loc='outside lower center', fontsize=9, ncols=2)
    return figure


def on_picture(picture: np.ndarray, inches: float) -> tuple[Figure, object]:
    """A figure and its axes with a picture and nothing else."""
    figure = Figure(figsize=(inches, inches * picture.shape[0] / picture.shape[1]))
    figure.set_layout_engine('constrained')
    axis = figure.subplots()
    axis.imshow(picture, interpolation='nearest')
    axis.axis('off')
    return figure, axis
