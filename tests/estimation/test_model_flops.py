"""FLOPs that are counted in a model's forward pass are those of the formula."""

import closed_form
import pytest

from rt2_jax.estimation import model_flops


def assert_the_formula_is_what_a_program_counts(config, vocab=150, target_length=5):
    data = dict(image_size=32, frames=2, prompt_length=7, target_length=target_length)
    counted = model_flops.forward_flops(config, vocab, data, 3)
    assert closed_form.forward_flops(config, vocab, data, 3) == counted


@pytest.mark.parametrize(
    'kind',
    [
        dict(block='sequential'),
        dict(block='parallel'),
        dict(stem='pyramid', stem_widths=(8, 12), positions='sincos'),
    ],
)
def test_the_formula_of_pali(kind):
    text = dict(width=24, depth=3, heads=2, head_dim=16, mlp=40)
    vision = dict(width=16, depth=2, heads=2, mlp=32, patch=16 if 'stem' in kind else 8) | kind
    config = dict(name='pali', dtype='float32', vision=vision, encoder=text, decoder=text)
    assert_the_formula_is_what_a_program_counts(config)


GROUPED = dict(heads=4, kv_heads=2, head_dim=6, scale=0.4)


@pytest.mark.parametrize(
    'config',
    [
        dict(
            name='t5gemma2',
            image_tokens=4,
            before_image=(2, 3),
            after_image=(4,),
            encoder=dict(width=24, depth=3, mlp=40, attention=GROUPED),
            decoder=dict(width=24, depth=2, mlp=36, attention=GROUPED),
        ),
        dict(name='decoder_only', text=dict(width=24, depth=3, mlp=40, attention=GROUPED)),
        dict(
            name='decoder_only',
            bos=-1,
            text=dict(width=24, depth=2, mlp=40, attention=GROUPED, block='parallel'),
        ),
    ],
    ids=lambda config: config['name'],
)
def test_the_formula_of_other_backbones(config):
    config = config | dict(
        dtype='float32', vision=dict(width=16, depth=2, heads=2, mlp=32, patch=8)
    )
    assert_the_formula_is_what_a_program_counts(config)


def test_the_formula_of_the_classifier():
    vision = dict(width=16, depth=2, heads=2, mlp=32, patch=8)
    config = dict(name='classifier', dtype='float32', width=24, vision=vision)
    # It answers with one token for each of 2 x 16 image tokens, and the end.
    assert_the_formula_is_what_a_program_counts(config, target_length=33)


def test_a_camera_more_costs_what_a_frame_more_does():
    text = dict(width=24, depth=1, heads=2, head_dim=16, mlp=40)
    vision = dict(width=16, depth=1, heads=2, mlp=32, patch=8)
    config = dict(name='pali', dtype='float32', vision=vision, encoder=text, decoder=text)
    data = dict(image_size=32, prompt_length=7, target_length=5)
    two_frames, two_cameras = dict(frames=2), dict(frames=1, cameras=('image', 'wrist_image'))
    for count in (model_flops.forward_flops, model_flops.train_flops):
        assert count(config, 150, data | two_frames, 3) == count(config, 150, data | two_cameras, 3)
    decode = [model_flops.decode_flops(config, data | x, 3) for x in (two_frames, two_cameras)]
    assert decode[0] == decode[1]
