"""Every field of a public config.json is taken, checked, or on the list of those without effect."""

import copy
import json
import logging

import pytest

from rt2_jax.weights import config_fields, formats, paligemma, siglip, t5, t5gemma2, vit
from rt2_jax.weights.tensors import SourceError

TOWER = dict(
    model_type='siglip_vision_model', hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
    num_attention_heads=16, num_channels=3, image_size=224, patch_size=14, attention_dropout=0.0,
    hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6, vision_use_head=False,
)  # fmt: skip
GEMMA = dict(
    hidden_size=2304, intermediate_size=9216, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, head_dim=256, vocab_size=257_216, max_position_embeddings=8192,
    hidden_activation='gelu_pytorch_tanh', rms_norm_eps=1e-6, attention_bias=False,
    attention_dropout=0.0, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    use_cache=True, initializer_range=0.02,
)  # fmt: skip
SLIDING, FULL = 'sliding_attention', 'full_attention'
GEMMA_2 = GEMMA | dict(
    model_type='gemma2', query_pre_attn_scalar=256, sliding_window=4096, attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0, layer_types=[SLIDING, FULL, SLIDING, FULL],
    rope_parameters=dict(rope_type='default', rope_theta=10_000.0), num_image_tokens=256,
    use_bidirectional_attention=True,
)  # fmt: skip
GEMMA_3 = GEMMA | dict(
    query_pre_attn_scalar=256, sliding_window=512, attn_logit_softcapping=None,
    final_logit_softcapping=None, layer_types=[SLIDING, SLIDING, FULL, SLIDING],
    rope_parameters={
        SLIDING: dict(rope_type='default', rope_theta=10_000.0),
        FULL: dict(rope_type='linear', rope_theta=1_000_000.0, factor=8.0),
    },
)  # fmt: skip
# As transformers writes them.
CONFIGS = {
    't5': dict(
        model_type='t5', architectures=['T5ForConditionalGeneration'], d_model=768, d_kv=64, d_ff=2048,
        num_heads=12, num_layers=12, num_decoder_layers=12, vocab_size=250_112, dropout_rate=0.1,
        feed_forward_proj='gated-gelu', dense_act_fn='gelu_new', is_gated_act=True,
        tie_word_embeddings=True, scale_decoder_outputs=False, layer_norm_epsilon=1e-6,
        relative_attention_num_buckets=32, relative_attention_max_distance=128,
        is_encoder_decoder=True, is_decoder=False, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, initializer_factor=1.0, classifier_dropout=0.0, use_cache=True,
        output_past=True, tokenizer_class='T5Tokenizer', torch_dtype='float32',
        transformers_version='4.50.0',
    ),
    'siglip': TOWER | dict(dtype='float32'),
    'siglip, whole': dict(
        model_type='siglip', initializer_factor=1.0, vision_config=TOWER, text_config={'a': 1}
    ),
    'vit': dict(
        model_type='vit', hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, hidden_act='gelu', layer_norm_eps=1e-12, image_size=224, patch_size=16,
        num_channels=3, qkv_bias=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        encoder_stride=16, pooler_act='tanh', pooler_output_size=768,
    ),
    'paligemma': dict(
        model_type='paligemma', tie_word_embeddings=True, projection_dim=2048, hidden_size=2048,
        image_token_index=257_152, ignore_index=-100, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        text_config=GEMMA | dict(model_type='gemma', rope_theta=10_000.0, num_image_tokens=256),
        vision_config=TOWER | dict(projection_dim=2048, projector_hidden_act='gelu_fast'),
    ),
    'paligemma, 2': dict(model_type='paligemma', text_config=GEMMA_2, vision_config=TOWER),
    't5gemma2': dict(
        model_type='t5gemma2', tie_word_embeddings=True, is_encoder_decoder=True, pad_token_id=0,
        image_token_index=256_001, eoi_token_index=256_000, dropout_rate=0.0,
        decoder=GEMMA_3 | dict(model_type='t5gemma2_decoder'),
        encoder=dict(
            model_type='t5gemma2_encoder', tie_word_embeddings=True, mm_tokens_per_image=256,
            boi_token_index=255_999, eoi_token_index=256_000, image_token_index=256_001,
            text_config=GEMMA_3 | dict(model_type='t5gemma2_text'), vision_config=TOWER,
        ),
    ),
}  # fmt: skip
MODULES = dict(t5=t5, siglip=siglip, vit=vit, paligemma=paligemma, t5gemma2=t5gemma2)


def model(case, config):
    # A T5's tensors, of which there is no head: then it must be the word table.
    return formats.FORMATS[case.split(',')[0]].model(config, {})


def leaves(config, path=()):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def changed(config, path, value):
    config = copy.deepcopy(config)
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return config


def other(value):
    """A value of the same kind that means something else."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value + 1
    if isinstance(value, list):
        return value[::-1] + value[:1]
    return 'other' if isinstance(value, str) else 3.0


def without_effect(case):
    """Names on the lists of a format, whose parts are those of other formats too."""
    modules = [MODULES[case.split(',')[0]], siglip]
    lists = [value for m in modules for name, value in vars(m).items() if 'IGNORED' in name]
    return config_fields.COMMON.union(*lists)


@pytest.mark.parametrize('case', CONFIGS)
def test_no_field_passes_silently(case):
    config, taken, refused = CONFIGS[case], [], []
    expected = model(case, config)
    for path in leaves(config):
        value = config
        for name in path:
            value = value[name]
        try:
            found = model(case, changed(config, path, other(value)))
        except (SourceError, KeyError) as error:
            # Of a depth, the list of its layers' kinds tells first.
            names = {path[-1], 'layer_types'} if path[-1] == 'num_hidden_layers' else {path[-1]}
            assert any(name in str(error) for name in names), (path, error)
            refused.append(path[-1])
            continue
        if found != expected:
            taken.append(path[-1])
        else:
            assert set(path) & without_effect(case), f'{path} changes nothing and is on no list'
    assert len(taken) >= 5 and len(refused) >= 3


@pytest.mark.parametrize(
    'case, path, value, message',
    [
        ('t5', 'layer_norm_epsilon', 1e-5, 'layer_norm_epsilon is 1e-05; the model here computes with 1e-06'),
        ('t5', 'relative_attention_max_distance', 64, 'is 64; the model here computes with 128'),
        ('t5', 'relative_attention_num_buckets', 16, 'is 16; the model here computes with 32'),
        ('t5', 'tie_word_embeddings', False, 'tie_word_embeddings is false, and there is no lm_head'),
        ('siglip', 'num_channels', 1, 'num_channels is 1; the model here computes with 3'),
        ('siglip', 'hidden_act', 'relu', "hidden_act is 'relu'"),
        ('vit', 'qkv_bias', False, 'qkv_bias is False; the model here computes with True'),
        ('paligemma', 'text_config.rms_norm_eps', 1e-5, 'text_config.rms_norm_eps is 1e-05'),
        ('paligemma', 'text_config.rope_scaling', {'factor': 2.0}, 'text_config.rope_scaling is'),
        ('paligemma', 'text_config.hidden_act', 'silu', "text_config.hidden_act is 'silu'"),
        ('paligemma', 'tie_word_embeddings', False, 'tie_word_embeddings is False'),
        ('paligemma, 2', 'text_config.layer_types', [FULL] * 4, 'text_config.layer_types is'),
        ('paligemma, 2', 'text_config.rope_parameters.rope_type', 'yarn', "rope_type is 'yarn'"),
        ('t5gemma2', 'decoder.layer_types', [FULL, SLIDING, SLIDING, SLIDING], 'decoder.layer_types is'),
        ('t5gemma2', 'encoder.text_config.attention_bias', True, 'attention_bias is True'),
        ('t5', 'new_scale', 2.0, 'new_scale is 2.0; this field is not known here'),
        ('vit', 'layer_norm_epss', 0.1, "did you mean 'layer_norm_eps'?"),
        ('siglip', 'quantization_config', {'bits': 4}, 'quantization_config is'),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_both_values(case, path, value, message):
    with pytest.raises(SourceError) as error:
        model(case, changed(CONFIGS[case], path.split('.'), value))
    assert message in str(error.value)


@pytest.mark.parametrize(
    'case, path, value, ours',
    [
        ('paligemma', 'text_config.rope_theta', 500.0, ('text', 'base')),
        ('paligemma, 2', 'text_config.rope_parameters.rope_theta', 500.0, ('text', 'base')),
        ('paligemma, 2', 'text_config.sliding_window', 8, ('text', 'window')),
        ('paligemma, 2', 'text_config.final_logit_softcapping', 5.0, ('cap',)),
        ('paligemma', 'vision_config.layer_norm_eps', 0.1, ('vision', 'epsilon')),
        ('siglip', 'layer_norm_eps', 0.1, ('vision', 'epsilon')),
        ('vit', 'layer_norm_eps', 0.1, ('vision', 'epsilon')),
        ('t5gemma2', 'decoder.sliding_window', 8, ('decoder', 'window')),
    ],
)
def test_what_the_model_can_do_is_taken(case, path, value, ours):
    found = model(case, changed(CONFIGS[case], path.split('.'), value))
    for name in ours:
        found = found[name]
    assert found == value


def test_a_cap_that_is_off_is_none():
    config = changed(CONFIGS['paligemma, 2'], ['text_config', 'final_logit_softcapping'], None)
    assert model('paligemma', config)['cap'] == 0.0


def test_an_unknown_field_that_is_off_is_named_in_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        model('vit', CONFIGS['vit'] | {'use_new_thing': False})
    assert 'use_new_thing is False: this field is not known here' in caplog.text


PREPROCESSOR = dict(
    image_processor_type='SiglipImageProcessor', do_resize=True, size=dict(height=224, width=224),
    resample=3, do_rescale=True, rescale_factor=0.00392156862745098, do_normalize=True,
    image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
)  # fmt: skip


@pytest.mark.parametrize('file', ['preprocessor_config.json', 'processor_config.json'])
def test_another_normalisation_of_frames_is_refused(file, tmp_path):
    write = lambda values: (tmp_path / file).write_text(
        json.dumps(values if file.startswith('pre') else {'image_processor': values})
    )
    config_fields.check_preprocessing(tmp_path)
    write(PREPROCESSOR)
    config_fields.check_preprocessing(tmp_path)
    for name in ('image_mean', 'image_std', 'rescale_factor', 'do_rescale', 'do_normalize'):
        write(PREPROCESSOR | {name: other(PREPROCESSOR[name])})
        with pytest.raises(SourceError, match=rf'{file}: .*{name} is .*; the model here computes'):
            config_fields.check_preprocessing(tmp_path)
    write(PREPROCESSOR | {'gamma': 2.2})
    with pytest.raises(SourceError, match='gamma is 2.2; this field is not known here'):
        config_fields.check_preprocessing(tmp_path)
