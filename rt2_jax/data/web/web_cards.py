"""Cards of web sets: what the features of a set of pictures and texts are called.

A card is a declaration. A path names a feature of a record, with a slash into what is nested:
`captions/text` is the text of each of TFDS's captions, and of each object of a JSON list of
`captions`. In a WebDataset shard the first part is a member's extension: `txt` is the text of
KEY.txt, `json/similarity` a key of KEY.json.

    WebCard('mine', image='picture', question='q', answer='a', language='lang')
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json

from rt2_jax.nearest import check, nearest

# What a record may hold of texts, each any number of times.
TEXTS = ('caption', 'question', 'answer', 'ocr', 'label')

# How a box's four numbers are ordered: TFDS's, the usual corners, COCO's corner and size.
BOX_FORMS = ('yxyx', 'xyxy', 'xywh')
BOX_UNITS = ('fraction', 'pixel')


@dataclasses.dataclass(frozen=True)
class WebCard:
    """One web set's card. A path is '' for what the set doesn't hold.

    Attributes:
        name: the card's name.
        image: path of the encoded picture (TFDS), of its file's name (JSONL), or the extensions
            that a picture's member may have (WebDataset: 'jpg|jpeg|png|webp').
        caption: path of captions.
        question: path of a question; of several, each has the answer of the same place.
        answer: path of the answers to the question.
        conversation: path of a list of turns, as LLaVA's `conversations` ("from", "value") or
            OpenAI's `messages` ("role", "content"). Each turn of a human is a question, the
            assistant's next turn its answer; earlier turns aren't shown.
        ocr: path of texts that are read in the picture, in reading order.
        label: path of the names of objects.
        box: path of their boxes, four numbers each.
        box_form: order of a box's numbers, of BOX_FORMS.
        box_unit: 'fraction' of the picture's sides, or 'pixel'.
        language: path of the texts' language ('en', 'de', ...).
        score: path of a number that says how well picture and text fit.
        default_language: language of records that don't say theirs.
    """

    name: str
    image: str = 'image'
    caption: str = ''
    question: str = ''
    answer: str = ''
    conversation: str = ''
    ocr: str = ''
    label: str = ''
    box: str = ''
    box_form: str = 'yxyx'
    box_unit: str = 'fraction'
    language: str = ''
    score: str = ''
    default_language: str = 'en'

    def __post_init__(self) -> None:
        check(f'box_form of card {self.name!r}:', self.box_form, BOX_FORMS)
        check(f'box_unit of card {self.name!r}:', self.box_unit, BOX_UNITS)
        if bool(self.box) != bool(self.label):
            raise ValueError(
                f'card {self.name!r}: boxes need labels and labels boxes, in the same order; got '
                f'box={self.box!r}, label={self.label!r}'
            )

    @functools.cached_property
    def paths(self) -> dict[str, str]:
        """Field -> path, of the fields that the set holds, but for the picture."""
        names = (*TEXTS, 'conversation', 'box', 'language', 'score')
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes what an index holds."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != 'name'}
        if not self.conversation:  # as before there was this field
            del fields['conversation']
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


_CARDS = (
    # TFDS, object_detection/coco_captions.py; labels and boxes are COCO's.
    WebCard('coco_captions', caption='captions/text', label='objects/label', box='objects/bbox'),
    # big_vision/datasets: vqa/vqa.py (VQAv2), okvqa/okvqa.py, coco35l/coco35l.py.
    WebCard('vqa', question='question_text', answer='answers'),
    WebCard('ok_vqa', question='question', answer='answers'),
    WebCard('coco35l', caption='captions', language='language'),
    # KEY.jpg, KEY.txt and, as far as there, these keys of KEY.json.
    WebCard(
        'webdataset',
        image='jpg|jpeg|png|webp',
        caption='txt',
        language='json/language',
        score='json/similarity',
    ),
    # One JSON object a line with keys of these names, as far as there.
    WebCard(
        'jsonl',
        caption='caption',
        question='question',
        answer='answer',
        conversation='conversations',
        ocr='ocr',
        label='objects/label',
        box='objects/box',
        language='language',
        score='score',
    ),
)
CARDS = {card.name: card for card in _CARDS}


def find(card: str | WebCard, fields: Mapping[str, str] | None = None) -> WebCard:
    """The card called `card`, with `fields` in the place of its own.

    Raises:
        ValueError: an unknown card or field, with the nearest valid name.
    """
    if isinstance(card, str):
        if card not in CARDS:
            raise ValueError(f'no card of a web set is called {card!r}{nearest(card, CARDS)}')
        card = CARDS[card]
    valid = [field.name for field in dataclasses.fields(WebCard) if field.name != 'name']
    for field in fields or {}:
        check('field of a web set:', field, valid)
    return dataclasses.replace(card, **(fields or {}))
