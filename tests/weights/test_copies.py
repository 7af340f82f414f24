"""Files that keep a tensor twice, or under the names of another version, or only as a pickle."""

import json
import re

import numpy as np
import pytest

from rt2_jax import convert
from rt2_jax.weights import tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')

VISION = dict(
    model_type='siglip_vision_model', hidden_size=36, intermediate_size=50, num_hidden_layers=2,
    num_attention_heads=3, image_size=24, patch_size=6, vision_use_head=False,
)  # fmt: skip
TEXT = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=10, vocab_size=97, pad_token_id=0, eos_token_id=1, bos_token_id=2,
)  # fmt: skip
T5 = dict(
    d_model=24, d_ff=44, vocab_size=97, num_layers=2, num_heads=3, d_kv=10,
    feed_forward_proj='gated-silu', tie_word_embeddings=False, decoder_start_token_id=0,
)  # fmt: skip
FAMILIES = {
    't5': ('T5ForConditionalGeneration', T5),
    'siglip': ('SiglipVisionModel', VISION),
    'paligemma': (
        'PaliGemmaForConditionalGeneration',
        dict(
            text_config=TEXT | dict(model_type='gemma'), vision_config=VISION, projection_dim=24,
            image_token_index=97,
        ),
    ),
    't5gemma2': (
        'T5Gemma2ForConditionalGeneration',
        dict(encoder=dict(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4), decoder=TEXT),
    ),
}  # fmt: skip


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A function: the model of a family, and the folder that transformers saved it in."""
    found = {}

    def save(family):
        if family not in found:
            torch.manual_seed(0)
            kind, settings = FAMILIES[family]
            kind = getattr(transformers, kind)
            folder = tmp_path_factory.mktemp(family)
            model = kind(kind.config_class(**settings))
            model.save_pretrained(folder)
            found[family] = model, folder
        return found[family]

    return save


def rewritten(folder, output, change):
    """A copy of a folder whose tensors, by name, went through `change`."""
    stored = {name: tensor.read() for name, tensor in tensors.open_tensors(folder).items()}
    arrays = {name: tensors.of_array(name, x) for name, x in change(stored).items()}
    tensors.write_safetensors(output, arrays)
    (output / 'config.json').write_text((folder / 'config.json').read_text())
    return output


def converted(source, family, output):
    convert.import_(source, family, output, None)
    return (output / 'params.safetensors').read_bytes()


# The word table's name, and those of its copies.
COPIES = {
    't5': ('shared.weight', ['encoder.embed_tokens.weight', 'decoder.embed_tokens.weight']),
    'paligemma': ('language_model.model.embed_tokens.weight', ['language_model.lm_head.weight']),
    't5gemma2': (
        'model.encoder.embed_tokens.weight',
        ['model.decoder.embed_tokens.weight', 'lm_head.out_proj.weight'],
    ),
}


@pytest.mark.parametrize('family', COPIES)
def test_copies_are_compared(family, saved, tmp_path):
    _, folder = saved(family)
    table, copies = COPIES[family]
    expected = converted(folder, family, tmp_path / 'expected')
    for number, copy in enumerate(copies):
        same = rewritten(folder, tmp_path / f'same{number}', lambda x: x | {copy: x[table]})
        assert converted(same, family, tmp_path / f'out{number}') == expected
        own = lambda x: x | {copy: x[table] + np.float32(1e-3) * (np.arange(97)[:, None] == 96)}
        other = rewritten(folder, tmp_path / f'other{number}', own)
        with pytest.raises(tensors.SourceError) as error:
            converted(other, family, tmp_path / 'never')
        assert copy in str(error.value) and f'not the same as {table}' in str(error.value)
        assert 'model.safetensors' in str(error.value)
        assert not list((tmp_path / 'never').iterdir())


@pytest.mark.parametrize('family', COPIES)
def test_any_one_of_the_names_is_enough(family, saved, tmp_path):
    _, folder = saved(family)
    table, copies = COPIES[family]
    expected = converted(folder, family, tmp_path / 'expected')
    for number, copy in enumerate(copies):
        moved = lambda x: {copy if name == table else name: array for name, array in x.items()}
        source = rewritten(folder, tmp_path / f'moved{number}', moved)
        assert converted(source, family, tmp_path / f'out{number}') == expected


def test_a_head_of_its_own_that_is_missing_is_not_made_of_the_word_table(saved, tmp_path):
    _, folder = saved('t5')
    less = lambda x: {name: array for name, array in x.items() if name != 'lm_head.weight'}
    source = rewritten(folder, tmp_path / 'source', less)
    config = json.loads((folder / 'config.json').read_text()) | {'tie_word_embeddings': False}
    (source / 'config.json').write_text(json.dumps(config))
    with pytest.raises(
        tensors.SourceError, match='tie_word_embeddings is false, and there is no lm_h'
    ):
        converted(source, 't5', tmp_path / 'never')


@pytest.mark.parametrize('family', ['siglip', 'paligemma', 't5gemma2'])
def test_names_as_transformers_has_them_in_memory(family, saved, tmp_path):
    model, folder = saved(family)
    expected = converted(folder, family, tmp_path / 'expected')
    prefix = 'model.vision_tower.' if family == 'siglip' else ''
    names = {prefix + name: x.detach().numpy() for name, x in model.state_dict().items()}
    source = rewritten(folder, tmp_path / 'source', lambda _: names)
    assert set(names) - set(tensors.open_tensors(folder))
    assert converted(source, family, tmp_path / 'ours') == expected


def test_pickles_are_refused_with_what_to_do_and_it_works(saved, tmp_path, monkeypatch):
    model, folder = saved('t5')
    source = tmp_path / 'pickled'
    source.mkdir()
    torch.save(model.state_dict(), source / 'pytorch_model.bin')
    (source / 'config.json').write_text((folder / 'config.json').read_text())
    with pytest.raises(tensors.SourceError, match='has its weights as pickles of torch') as error:
        converted(source, 't5', tmp_path / 'never')
    monkeypatch.chdir(tmp_path)
    remedy = re.findall(r'^  (.*)$', str(error.value), re.MULTILINE)
    exec('\n'.join(remedy), {})
    assert converted(tmp_path / 'NEW', 't5', tmp_path / 'ours') == converted(
        folder, 't5', tmp_path / 'expected'
    )
