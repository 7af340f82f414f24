"""The tables of RT-2's paper (arXiv 2307.15818): which policies, which suites, and the paper's numbers.

A `Row` is a policy. One whose model the code base lacks has no config and shows as 'not built'; with a
config, a line here is all that it needs: rt2_jax.tables trains and measures it.

Numbers are success in percent, as printed there, in the order of a table's columns, the average last;
'-' where the paper has none.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from rt2_jax.envs.tabletop import suites

UNSEEN, EMERGENT = suites.PAPER[1:7], suites.PAPER[7:]
THOUGHT = ('seen', *UNSEEN[:2], *EMERGENT, 'thought')


@dataclasses.dataclass(frozen=True)
class Row:
    """A policy in a table, or a model that policies start from.

    Attributes:
        label: in our tables.
        name: its folder; rows of one name share training runs.
        config: FILE:ARGUMENT of training; '' where the model is not built.
        model: what the paper calls its own.
        paper: the paper's numbers by table name.
        changes: fields of the config that differ, by dotted name.
        starts_from: the name of a row of `BASES` in place of config.init_from.
        headline: whether several seeds are trained.
        plan: whether it plans before an action; None leaves it to the config.
    """

    label: str
    name: str
    config: str = ''
    model: str = ''
    paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    starts_from: str = ''
    headline: bool = False
    plan: bool | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Policies by suites.

    Attributes:
        name: after --table=.
        title: what it shows.
        source: of the paper's numbers.
        columns: suites.
        average: name of the last column.
        averaged: the suites that it is the average of.
        rows: the policies.
        paired: whether the second of two rows is compared with the first, episode by episode.
    """

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    average: str
    averaged: tuple[str, ...]
    rows: tuple[Row, ...]
    paired: bool = False

    def paper(self, row: Row) -> list[float | None]:
        """The paper's numbers of a row, in the order of the columns, the average last.

        Raises:
            ValueError: another number of numbers than of columns.
        """
        words = row.paper.get(self.name, '').split() or ['-'] * (len(self.columns) + 1)
        if len(words) != len(self.columns) + 1:
            raise ValueError(f'table {self.name}, {row.label}: {len(words)} numbers')
        return [None if word == '-' else float(word) for word in words]


_TABLETOP, _MODEL = 'configs/tabletop.py', 'RT-2-PaLI-X'
_OTHERS = 'configs/baselines.py'

# What a row can start from, where nothing is packaged.
BASES = {
    row.name: row
    for row in (
        Row('small tower', 'vision_small', f'{_TABLETOP}:vision_small'),
        Row(
            'small base',
            'pretrain_small',
            f'{_TABLETOP}:pretrain_small',
            starts_from='vision_small',
        ),
        Row("PaLM-E's base", 'palm_e_pretrain', f'{_TABLETOP}:palm_e_pretrain'),
        Row('tower of RT-1', 'rt1_vision', 'configs/rt1.py:vision'),
        Row('tower of VC-1', 'vc1_pretrain', f'{_OTHERS}:vc1_pretrain'),
        Row('tower of R3M', 'r3m_pretrain', f'{_OTHERS}:r3m_pretrain'),
    )
}

# Flags of rt2_jax.text.build_vocabulary, by the file name of config.tokenizer.
VOCABULARIES = {'overwritten.model': ('--integers=overwrite',)}

# fmt: off
# The rows of tables 4 and 5. Of table 5's models the paper has no R3M and no MOO.
BASELINES = (
    Row('R3M', 'r3m', f'{_OTHERS}:r3m', 'R3M', {'4': '45 32 14 13 9 0 2 12'}, starts_from='r3m_pretrain'),
    Row('VC-1', 'vc1', f'{_OTHERS}:vc1', 'VC-1',
        {'4': '63 34 10 13 3 0 0 10', '5': '11 10 13 11'}, starts_from='vc1_pretrain'),
    Row('RT-1', 'rt1', 'configs/rt1.py:tabletop', 'RT-1',
        {'4': '92 31 43 71 9 26 14 32', '5': '16 16 20 17'}, starts_from='rt1_vision', headline=True),
    Row('MOO', 'moo', f'{_OTHERS}:moo', 'MOO', {'4': '75 58 48 38 41 19 3 35'}, starts_from='rt1_vision'),
    Row('RT-2-PaLI-X (tiny PaLI)', 'cofinetune', f'{_TABLETOP}:cofinetune', 'RT-2-PaLI-X-55B',
        {'4': '91 70 62 96 48 63 35 62', '5': '82 46 53 60'}, headline=True),
    Row('RT-2-PaLI-X, actions in one pass', 'one_pass', f'{_TABLETOP}:one_pass'),
    Row('RT-2-PaLM-E (tiny decoder)', 'palm_e', f'{_TABLETOP}:palm_e', 'RT-2-PaLM-E-12B',
        {'4': '93 84 76 75 71 36 33 62', '5': '36 43 43 40'},
        starts_from='palm_e_pretrain'),
)

# Of the paper's table 6, the averages; it has no 55B from scratch.
ABLATION = (
    Row('small, scratch', 'scratch_small', f'{_TABLETOP}:scratch_small',
        f'{_MODEL}-5B, scratch', {'6': '- - - - - - 9'}),
    Row('small, fine-tuned', 'finetune_small', f'{_TABLETOP}:finetune_small',
        f'{_MODEL}-5B, fine-tuned', {'6': '- - - - - - 42'}, starts_from='pretrain_small'),
    Row('small, co-fine-tuned', 'cofinetune_small', f'{_TABLETOP}:cofinetune_small',
        f'{_MODEL}-5B, co-fine-tuned', {'6': '- - - - - - 44'}, starts_from='pretrain_small'),
    Row('large, scratch', 'scratch', f'{_TABLETOP}:scratch', f'{_MODEL}-55B, scratch'),
    Row('large, fine-tuned', 'finetune', f'{_TABLETOP}:finetune',
        f'{_MODEL}-55B, fine-tuned', {'6': '- - - - - - 52'}),
    Row('large, co-fine-tuned', 'cofinetune', f'{_TABLETOP}:cofinetune',
        f'{_MODEL}-55B, co-fine-tuned', {'6': '- - - - - - 63'}, headline=True),
)

# The paper shows rollouts of chain of thought (figure 7) and counts none.
PLANS = tuple(
    Row(label, 'cofinetune', f'{_TABLETOP}:cofinetune', plan=plan, headline=True)
    for label, plan in (('without a plan', False), ('with a plan', True))
)
# fmt: on

TABLES = {
    table.name: table
    for table in (
        Table(
            '4',
            'Generalization',
            'RT-2, arXiv 2307.15818, table 4',
            ('seen', *UNSEEN),
            'unseen average',
            UNSEEN,
            BASELINES,
        ),
        Table(
            '5',
            'Emergent skills',
            'RT-2, arXiv 2307.15818, table 5',
            EMERGENT,
            'average',
            EMERGENT,
            BASELINES,
        ),
        Table(
            '6',
            'Size and training',
            'RT-2, arXiv 2307.15818, table 6 (averages)',
            UNSEEN,
            'unseen average',
            UNSEEN,
            ABLATION,
        ),
        Table('cot', 'Chain of thought', '', THOUGHT, 'average', THOUGHT, PLANS, paired=True),
    )
}
