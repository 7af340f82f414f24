"""What tests of several rooms share: the project's vocabulary and a tiny PaLI with random weights."""

import gc
import io
import os
import shutil
import tempfile

from bucket import bucket, bucket_server  # noqa: F401  fixtures
import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest
import sentencepiece

from rt2_jax.checkpoints import assets, checkpoint
from rt2_jax.models import backbone
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training.train_state import TrainState


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; bash launch/test.sh -m slow runs it')
    compile_quickly(config)
    # Tiny models gain nothing by huge pages, and each command would start anew for them.
    os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=0')
    # What jax traced makes a large heap, which the default looks through every few milliseconds.
    gc.set_threshold(50_000, 20, 50)


def compile_quickly(config):
    """Compiles fast what computes little, and once for all tests, workers and subprocesses.

    Programs run slower, and `full_compile` is for tests of what the compiler makes of them. Where
    JAX_COMPILATION_CACHE_DIR is set, as in workers, that folder is the cache, and kept.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        folder = tempfile.mkdtemp(prefix='rt2_jax_tests_')
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {QUICK_XLA}'.strip()
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
    jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_disable_most_optimizations', True)


# Files that take longest, longest first. What is left at the end is then short, and both workers end
# together; it takes pytest's --no-loadscope-reorder, as in launch/test.sh.
LONG_FILES = (
    'test_train.py',
    'test_index_together.py',
    'test_backbone.py',
    'test_notebooks.py',
    'test_sampler.py',
    'test_configs.py',
    'test_policy.py',
    'test_estimate.py',
    'test_compact.py',
    'test_exit_codes.py',
    'test_evaluate.py',
    'test_demo.py',
    'test_export.py',
    'test_mixed_robots.py',
    'test_convert.py',
    'test_collect.py',
    'test_step.py',
    'test_house.py',
    'test_t5.py',
    'test_paligemma.py',
    'test_tpu_vm.py',
    'test_server.py',
    'test_packaged_policy.py',
)


def pytest_collection_modifyitems(config, items):
    """Leaves slow tests out where no marker is asked for; long files begin, so that workers end together."""
    last = len(LONG_FILES)
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, last))
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker('slow')]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


# Of jaxlib as pinned: without these, half of the time of the tests goes into compiling loops of fusions.
QUICK_XLA = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'

TINY_MODEL = {
    'name': 'pali',
    'dtype': 'float32',
    'vision': {'width': 16, 'depth': 1, 'heads': 2, 'mlp': 32, 'patch': 8},
    'encoder': {'width': 32, 'depth': 2, 'heads': 2, 'head_dim': 16, 'mlp': 64},
    'decoder': {'width': 32, 'depth': 2, 'heads': 2, 'head_dim': 16, 'mlp': 64},
}


class TinyPaLI:
    """A tiny PaLI, and inputs and weights to try it with."""

    image_size = 16
    prompt_length = 32
    target_length = 24

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.model = backbone.build(TINY_MODEL, tokenizer.vocab_size, tokenizer.integer_ids)
        images, prompt = self.inputs(0, 1)
        self._init = jax.jit(
            lambda key: nn.meta.unbox(self.model.init(key, images, prompt, prompt)['params'])
        )

    def params(self, seed: int, sharpness: float = 6.0):
        """Random weights; `sharpness` scales the logits, which else are all much alike."""
        params = self._init(jax.random.key(seed))
        return {**params, 'head': jax.tree.map(lambda x: sharpness * x, params['head'])}

    def inputs(self, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Random images uint8 [B, 1, S, S, 3] and prompts int32 [B, P] of any length."""
        rng = np.random.default_rng(seed)
        size = self.image_size
        images = rng.integers(0, 256, (batch, 1, size, size, 3), np.uint8)
        prompt = rng.integers(2, self.tokenizer.vocab_size, (batch, self.prompt_length), np.int32)
        lengths = rng.integers(1, self.prompt_length + 1, (batch, 1))
        return images, np.where(np.arange(self.prompt_length) < lengths, prompt, 0)

    def config(self) -> ml_collections.ConfigDict:
        """The config that a training run of this model would have."""
        return ml_collections.ConfigDict(
            {
                'embodiment': 'tabletop',
                'model': TINY_MODEL,
                'data': {
                    'image_size': self.image_size,
                    'frames': 1,
                    'prompt_length': self.prompt_length,
                    'target_length': self.target_length,
                },
            }
        ).lock()


@pytest.fixture
def full_compile():
    """Compiles as for users, but for QUICK_XLA."""
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='session')
def tiny_checkpoint(tiny, tokenizer, tmp_path_factory):
    """The directory of a run that was stopped after 7 steps, as training leaves it."""
    workdir = tmp_path_factory.mktemp('run')
    assets.write_assets(workdir, tiny.config(), tokenizer, {'tabletop': ActionSpace.rt1_bounds()})
    step = jax.numpy.int32(7)
    state = TrainState(step=step, params=tiny.params(0), opt_state={})
    checkpoints = checkpoint.Checkpoints(workdir)
    checkpoints.save(state, {'batches': 7}, 7)
    checkpoints.close()
    return workdir


@pytest.fixture(scope='session')
def public_vocabulary():
    """A function: SentencePiece models as others publish them, with no token for an integer.

    It takes the kind, 'unigram' in the way of T5 or 'bpe' in the way of Gemma, the lines to learn from
    and the number of tokens.
    """
    settings = {
        'unigram': dict(bos_id=-1, unk_id=2),
        'bpe': dict(
            bos_id=2, unk_id=3, bos_piece='<bos>', eos_piece='<eos>', byte_fallback=True,
            add_dummy_prefix=False, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            normalization_rule_name='identity',
            user_defined_symbols=['<mask>', '\n', '\n\n', '\u2581\u2581', '\u2581\u2581\u2581'],
        ),
    }  # fmt: skip

    def train(kind: str, lines: list[str], size: int) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=size,
            pad_id=0, eos_id=1, minloglevel=2, **settings[kind],
        )  # fmt: skip
        return model.getvalue()

    return train


@pytest.fixture(scope='session')
def syllables() -> list[str]:
    """Lines of made-up words and integers."""
    rng = np.random.default_rng(0)
    pairs = [a + b for a in 'bcdfgklmnprst' for b in 'aeiou']
    words = [''.join(rng.choice(pairs, rng.integers(1, 4))) for _ in range(4000)]
    return [
        ' '.join(rng.choice(words, 12)) + f' {rng.integers(3000)} and {rng.integers(20)},120.'
        for _ in range(3000)
    ]


@pytest.fixture(scope='session')
def tokenizer() -> Tokenizer:
    return Tokenizer.load_default()


@pytest.fixture(scope='session')
def action_tokenizer(tokenizer) -> ActionTokenizer:
    """With RT-1's bounds. Shared, so don't read its counters."""
    return ActionTokenizer(ActionSpace.rt1_bounds(), tokenizer)


@pytest.fixture(scope='session')
def tiny(tokenizer) -> TinyPaLI:
    return TinyPaLI(tokenizer)
