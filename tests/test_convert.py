"""The convert binary: public checkpoints in, a run that starts from them, and out again."""

import json
import os
import pathlib
import subprocess
import sys

import drawn_episodes
import in_process
import numpy as np
import pytest
import sentencepiece

from rt2_jax.checkpoints import loading
from rt2_jax.policy import Policy
from rt2_jax.text import build_vocabulary
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.weights import tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')

ROOT = pathlib.Path(__file__).parents[1]


def convert(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'rt2_jax.convert', *flags], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope='module')
def public(tmp_path_factory):
    """A T5 and a SigLIP of the sizes of tests/training/tiny_config.py, as others publish them."""
    folder = tmp_path_factory.mktemp('public')
    torch.manual_seed(0)
    text = transformers.T5Config(
        d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=3000,
        feed_forward_proj='gated-gelu', tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(text)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn(3000, 32) / 5)
    model.save_pretrained(folder / 't5', max_shard_size='500KB')
    (folder / 't5' / 'spiece.model').write_bytes(Tokenizer.load_default().model_bytes)
    (folder / 't5' / 'tokenizer.json').write_text('{}')  # second to the other
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
        patch_size=8,
    )  # fmt: skip
    transformers.SiglipVisionModel(vision).save_pretrained(folder / 'siglip')
    return folder


@pytest.fixture(scope='module')
def converted(public, tmp_path_factory):
    folder = tmp_path_factory.mktemp('converted')
    for name in ('t5', 'siglip'):
        result = convert(
            f'--source={public / name}', f'--format={name}', f'--output={folder / name}'
        )
        assert result.returncode == 0, result.stderr
        assert 'M parameters read from' in result.stdout
    return folder


def test_what_is_written_says_what_it_fills(converted):
    told = json.loads((converted / 't5' / loading.MODEL).read_text())
    assert told['format'] == 't5' and told['model']['encoder']['width'] == 32
    assert len(Tokenizer.load(converted / 't5' / 'tokenizer.model').integer_ids) == 1001
    assert told['integers'] == {'way': 'append', 'ids': [], 'instead_of': []}
    params = tensors.open_tensors(converted / 'siglip')
    assert params['tower/blocks/attention/query/kernel'].shape == (1, 16, 2, 8)
    assert (
        json.loads((converted / 'siglip' / loading.MODEL).read_text())['model']['image_size'] == 32
    )


def test_out_again_is_what_came_in(public, converted, tmp_path):
    result = convert(f'--source={converted / "t5"}', '--format=t5', f'--output={tmp_path / "back"}')
    assert result.returncode == 0, result.stderr
    back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'back').state_dict()
    first = transformers.T5ForConditionalGeneration.from_pretrained(public / 't5').state_dict()
    assert all(torch.equal(back[name], x) for name, x in first.items())


VISION = dict(
    model_type='siglip_vision_model', hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, image_size=32, patch_size=8, vision_use_head=False, projection_dim=24,
)  # fmt: skip
TEXT = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, vocab_size=4096, pad_token_id=0, eos_token_id=1, bos_token_id=2,
)  # fmt: skip


def save_t5gemma2(folder):
    config = transformers.T5Gemma2Config(
        encoder=dict(
            text_config=TEXT, vision_config=VISION, mm_tokens_per_image=16, boi_token_index=3000,
            eoi_token_index=3001, image_token_index=3002,
        ),
        decoder=TEXT, image_token_index=3002,
    )  # fmt: skip
    transformers.T5Gemma2ForConditionalGeneration(config).save_pretrained(folder)


def save_paligemma(folder):
    config = transformers.PaliGemmaConfig(
        text_config=TEXT | dict(model_type='gemma2'), vision_config=VISION, projection_dim=24,
        image_token_index=3002,
    )  # fmt: skip
    transformers.PaliGemmaForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture(scope='module')
def episodes(tmp_path_factory):
    return drawn_episodes.write_dataset(
        tmp_path_factory.mktemp('episodes') / 'tabletop', episodes=6
    )


def co_fine_tune(directories, episodes, workdir, *flags):
    """Three steps of configs/from_weights.py, and a policy made of them."""
    result = subprocess.run(
        [
            sys.executable, '-m', 'rt2_jax.train', f'--workdir={workdir}',
            f'--config=configs/from_weights.py:{",".join(map(str, directories))}',
            f'--config.data.robot.tabletop.directory={episodes}', '--config.total_steps=3',
            '--config.batch_size=4', '--config.log_every=1', *flags,
        ],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    policy = Policy.from_checkpoint(workdir, batch_sizes=(1,))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert policy.act(image, 'pick banana').action.shape == (8,)
    return loading.load_for_inference(workdir).params


@pytest.mark.slow
def test_a_language_model_and_a_tower_co_fine_tune(converted, episodes, tmp_path):
    """What is given starts as it came, the projection and the words behind theirs at random."""
    still = '--config.optimizer.frozen=^(?!projection|embedding)'
    params = co_fine_tune(
        [converted / 't5', converted / 'siglip'], episodes, tmp_path / 'run', still
    )
    for name, part in (('t5', 'text_encoder/layers/mlp/wo/kernel'), ('siglip', 'tower/positions')):
        given, found = tensors.open_tensors(converted / name)[part].read(), params
        for key in part.split('/'):
            found = found[key]
        np.testing.assert_array_equal(found, given)
    words, given = params['embedding']['embedding'], tensors.open_tensors(converted / 't5')
    given = given['embedding/embedding'].read()
    assert words.shape[0] > 3000 and words[3000:].std() > 0
    assert 0 < abs(words[:3000] - given).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    'family, save', [('t5gemma2', save_t5gemma2), ('paligemma', save_paligemma)]
)
def test_whole_models_co_fine_tune(family, save, episodes, tmp_path, public_vocabulary):
    torch.manual_seed(0)
    save(tmp_path / 'theirs')
    # As they are published: a fast tokenizer, and beside it which of its tokens end and pad.
    lines = [*build_vocabulary.sentences(), *map(str, range(1000))]
    words = public_vocabulary('bpe', lines, 2000)
    (tmp_path / 'tokenizer.model').write_bytes(words)
    transformers.GemmaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / 'theirs')
    result = convert(
        f'--source={tmp_path / "theirs"}', f'--format={family}', f'--output={tmp_path / "ours"}'
    )
    assert result.returncode == 0, result.stderr
    # Its integers above 255 are of several tokens.
    longer = '--config.data.target_length=96'
    params = co_fine_tune([tmp_path / 'ours'], episodes, tmp_path / 'run', longer)
    told = json.loads((tmp_path / 'ours' / loading.MODEL).read_text())['integers']
    recorded = json.loads((tmp_path / 'run' / 'embodiment.json').read_text())['action_tokens']
    before = sentencepiece.SentencePieceProcessor(model_proto=words)
    assert [before.id_to_piece(number) for number in told['ids']] == told['instead_of']
    assert set(told['ids']) <= set(recorded) and len(recorded) == 256
    given = tensors.open_tensors(tmp_path / 'ours')['tower/positions'].read()
    np.testing.assert_array_equal(params['tower']['positions'], given)  # frozen, as configured


@pytest.mark.slow
@pytest.mark.parametrize('family', ['t5,siglip', 't5gemma2', 'paligemma'])
def test_the_tabletop_with_each_family(family, converted, tmp_path):
    """Real episodes, training, closed loop and questions, with the commands that a user types."""
    pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")
    run = lambda *command: subprocess.run([sys.executable, '-m', *command], cwd=ROOT, check=True)
    directories = [converted / name for name in family.split(',')]
    if family != 't5,siglip':
        {'t5gemma2': save_t5gemma2, 'paligemma': save_paligemma}[family](tmp_path / 'theirs')
        (tmp_path / 'theirs/tokenizer.model').write_bytes(Tokenizer.load_default().model_bytes)
        directories = [tmp_path / 'ours']
        convert(
            f'--source={tmp_path / "theirs"}', f'--format={family}', f'--output={directories[0]}'
        )
    run('rt2_jax.envs.tabletop.collect', '--episodes=8', f'--output={tmp_path / "episodes"}')
    co_fine_tune(directories, tmp_path / 'episodes', tmp_path / 'run', '--config.total_steps=20')
    run(
        'rt2_jax.evaluate', f'--workdir={tmp_path / "run"}', '--suite=seen,web', '--episodes=2',
        '--questions=8', f'--output={tmp_path / "results.json"}',
    )  # fmt: skip
    found = json.loads((tmp_path / 'results.json').read_text())['policies']['checkpoint']
    assert found['seen']['episodes'] == 2 and found['web']


@pytest.mark.parametrize(
    'change, message',
    [
        ('family', "is of a 't5', --format=siglip is for siglip"),
        ('shard', 'is missing: model.safetensors.index.json says it holds'),
        ('truncated', 'is truncated'),
        ('name', "did you mean 'siglip'"),
        ('vocab', 'shared.weight of (3000, 32)'),
        ('dtype', 'shared.weight in'),
    ],
)
def test_wrong_input_names_the_file_and_the_tensor(monkeypatch, public, tmp_path, change, message):
    folder = tmp_path / 't5'
    folder.mkdir()
    for path in (public / 't5').iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = sorted(folder.glob('*.safetensors'))[0]
    name = 't5'
    if change == 'family':
        name = 'siglip'
    elif change == 'shard':
        shard.unlink()
    elif change == 'truncated':
        shard.write_bytes(shard.read_bytes()[:-100])
    elif change == 'name':
        name = 'siglib'
    elif change == 'dtype':  # as quantised models have it
        found = tensors.open_tensors(folder)
        found['shared.weight'] = tensors.of_array('shared.weight', np.ones((3000, 32), np.int8))
        tensors.write_safetensors(folder, found)
        for path in (*folder.glob('model-*'), folder / 'model.safetensors.index.json'):
            path.unlink()
    else:
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps(config | {'vocab_size': 7000}))
    flags = f'--source={folder}', f'--format={name}', f'--output={tmp_path / "out"}'
    assert message in in_process.run(monkeypatch, 'convert', *flags)
