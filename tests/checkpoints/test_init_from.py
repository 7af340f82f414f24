"""What a run starts from fits it: the tokens that stand for integers."""

import json

import numpy as np
import pytest

from rt2_jax.checkpoints import checkpoint, init_from, loading
from rt2_jax.text import integers
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.weights import tensors

PARAMS = {'tower/kernel': np.ones([2, 2]), 'embedding/vectors': np.ones([3, 2])}


@pytest.fixture(scope='module')
def vocabularies(public_vocabulary):
    """One public vocabulary with tokens for integers in both ways."""
    letters = np.random.default_rng(0).choice([*'abcdefghijklmnop'], [3000, 4])
    lines = [' '.join(map(''.join, four)) for four in letters.reshape(-1, 4, 4)]
    model = public_vocabulary('unigram', lines, 570)
    return {way: integers.with_integers(model, way) for way in integers.WAYS}


def convert(folder, told):
    named = {name: tensors.of_array(name, array) for name, array in PARAMS.items()}
    tensors.write_safetensors(folder, named, stem=loading.PARAMS)
    (folder / loading.MODEL).write_text(json.dumps({'model': {}, **told}))
    return str(folder)


@pytest.mark.parametrize('way', integers.WAYS)
def test_tokens_for_integers_are_those_of_the_run(tmp_path, vocabularies, way):
    words = vocabularies[way]
    told = {'way': way, 'ids': words.ids, 'instead_of': words.instead_of}
    folder = convert(tmp_path, {'integers': told})
    for other, changed in vocabularies.items():
        tokenizer = Tokenizer(changed.model_bytes)
        # A tower has no words.
        assert set(init_from.initial_params(folder, ('tower',), tokenizer)) == {'tower'}
        if other == way:
            assert set(init_from.initial_params(folder, (), tokenizer)) == {'tower', 'embedding'}
            continue
        with pytest.raises(
            checkpoint.CheckpointError, match=f"by '{way}' .*set config.tokenizer to {tmp_path}"
        ):
            init_from.initial_params(folder, (), tokenizer)


def test_weights_without_a_vocabulary_go_with_any(tmp_path, tokenizer):
    assert len(init_from.initial_params(convert(tmp_path, {}), (), tokenizer)) == 2


def test_each_directory_may_give_one_part(tmp_path, tokenizer):
    folders = [convert(tmp_path / name, {}) for name in 'ab']
    with pytest.raises(checkpoint.CheckpointError, match='b has embedding, tower, which another'):
        init_from.initial_params(','.join(folders), (), tokenizer)
    both = f'{folders[0]}#tower,{folders[1]}#embedding'
    params = init_from.initial_params(both, (), tokenizer)
    places = {part: next(iter(x.values())).where for part, x in params.items()}
    assert set(places) == {'tower', 'embedding'}
    assert str(places['tower']).startswith(folders[0])
    assert str(places['embedding']).startswith(folders[1])
    with pytest.raises(
        checkpoint.CheckpointError, match="names 'towr' of .*; did you mean 'tower'"
    ):
        init_from.initial_params(f'{folders[0]}#towr', (), tokenizer)


def test_only_words_need_the_vocabulary_of_a_run(vocabularies):
    other = Tokenizer(vocabularies['append'].model_bytes)
    package = 'package:tabletop_pretrained'
    assert set(init_from.initial_params(package, ('tower',), other)) == {'tower'}
    with pytest.raises(
        checkpoint.CheckpointError, match='leave embedding out of config.init_parts'
    ):
        init_from.initial_params(package, (), other)
