"""Named mixtures of Open X-Embodiment's robot data sets (arXiv 2310.08864), by published weights.

    config.data.update(weights_per='step', robot=named_mixtures.robot_sets('rtx', 'data', leave_out=['kuka']))
    config.data.robot.viola.weight = 0.5

Octo and OpenVLA multiply each weight by the number of steps of its set (`balance_weights` of their
interleaved data sets), so these want `weights_per='step'`. `bridge_dataset` is the set that OpenVLA
calls `bridge_orig`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rt2_jax.data import cards as robot_cards, open_x_cards
from rt2_jax.nearest import check

# Octo: octo/data/oxe/oxe_dataset_mixes.py of octo-models/octo, 241fb35.
_RTX = {
    'fractal20220817_data': 0.54087122203,
    'kuka': 0.8341046294,
    'bridge_dataset': 1.0,
    'taco_play': 2.0,
    'jaco_play': 2.0,
    'berkeley_cable_routing': 3.0,
    'roboturk': 1.0,
    'nyu_door_opening_surprising_effectiveness': 5.0,
    'viola': 2.0,
    'berkeley_autolab_ur5': 1.0,
    'toto': 1.0,
}
_MAGIC_SOUP = {
    'fractal20220817_data': 0.54087122203,
    'kuka': 0.8341046294,
    'bridge_dataset': 1.0,
    'taco_play': 2.0,
    'jaco_play': 1.0,
    'berkeley_cable_routing': 1.0,
    'roboturk': 2.0,
    'nyu_door_opening_surprising_effectiveness': 1.0,
    'viola': 2.0,
    'berkeley_autolab_ur5': 2.0,
    'toto': 1.0,
    'language_table': 0.1,
    'stanford_hydra_dataset_converted_externally_to_rlds': 2.0,
    'austin_buds_dataset_converted_externally_to_rlds': 1.0,
    'nyu_franka_play_dataset_converted_externally_to_rlds': 3.0,
    'furniture_bench_dataset_converted_externally_to_rlds': 0.1,
    'ucsd_kitchen_dataset_converted_externally_to_rlds': 2.0,
    'austin_sailor_dataset_converted_externally_to_rlds': 1.0,
    'austin_sirius_dataset_converted_externally_to_rlds': 1.0,
    'bc_z': 0.2,
    'dlr_edan_shared_control_converted_externally_to_rlds': 1.0,
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds': 1.0,
    'utaustin_mutex': 1.0,
    'berkeley_fanuc_manipulation': 2.0,
    'cmu_stretch': 1.0,
}
# OpenVLA: prismatic/vla/datasets/rlds/oxe/mixtures.py of openvla/openvla, c8f03f4. It trained without
# `droid` in the last third of the run (arXiv 2406.09246, section 3.3).
_MAGIC_SOUP_PLUS = {
    name: weight
    for name, weight in _MAGIC_SOUP.items()
    if name != 'nyu_door_opening_surprising_effectiveness'  # a wrist camera alone
} | {'fmb_dataset': 1.0, 'dobbe': 0.2, 'droid': 0.06}

WEIGHTS = {
    # RT-2's robot data (arXiv 2307.15818, appendix B).
    'rt2': {'fractal20220817_data': 1.0},
    'bridge': {'bridge_dataset': 1.0},
    'bridge_rt1': {'bridge_dataset': 1.0, 'fractal20220817_data': 1.0},
    'rtx': _RTX,
    'oxe_magic_soup': _MAGIC_SOUP,
    'oxe_magic_soup_plus': _MAGIC_SOUP_PLUS,
    # OpenVLA-OFT: prismatic/vla/datasets/rlds/oxe/mixtures.py of moojink/openvla-oft, 213c5ff.
    'libero_4_task_suites_no_noops': {card.name: 1.0 for card in open_x_cards.LIBERO},
}

# As published; every other set is 0.1.0.
VERSIONS = {
    'bridge_dataset': '1.0.0',
    'dobbe': '0.0.1',
    'droid': '1.0.0',
    'fmb_dataset': '0.0.1',
    'language_table': '0.0.1',
    **{card.name: '1.0.0' for card in open_x_cards.LIBERO},
}


def weights(name: str) -> dict[str, float]:
    """The weights of a mixture, by set; ValueError with the nearest valid name for any other."""
    return dict(WEIGHTS[check('mixture', name, WEIGHTS)])


def robot_sets(
    name: str,
    directory: str,
    leave_out: Collection[str] = (),
    cards: Mapping[str, str] | None = None,
) -> dict[str, dict]:
    """What `config.data.robot` needs for a mixture: directory, card and weight of each set, by name.

    Sets whose makers give no ranges have `bounds='q01-q99'`, too.

    Args:
        name: of `WEIGHTS`.
        directory: holds the sets as TFDS does, in SET/VERSION.
        leave_out: sets that are not wanted.
        cards: card, by name or as FILE.json, of sets that have none of their own name.

    Raises:
        ValueError: no such mixture, a set to leave out that isn't in it, or one without a card.
    """
    wanted = weights(name)
    for unwanted in leave_out:
        del wanted[check(f'set of mixture {name}', unwanted, wanted)]
    cards = dict(cards or {})
    for with_card in cards:
        check(f'set of mixture {name}', with_card, wanted)
    if without := sorted(set(wanted) - set(robot_cards.CARDS) - set(cards)):
        raise ValueError(
            f'mixture {name!r}: there is no embodiment card for {", ".join(without)}; give theirs in '
            'files (`cards`), or leave these sets out'
        )
    sets = {
        name: dict(
            directory=f'{directory}/{name}/{VERSIONS.get(name, "0.1.0")}',
            card=cards.get(name, name),
            weight=weight,
        )
        for name, weight in wanted.items()
    }
    for name in open_x_cards.RANGES_UNKNOWN.intersection(sets).difference(cards):
        sets[name]['bounds'] = 'q01-q99'
    return sets
