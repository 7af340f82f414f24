"""Reads a public checkpoint's config.json, every field of it: taken, checked or ignored.

A field that nothing reads could change what the model computes, so it is an error that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import json
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.nearest import closest
from rt2_jax.weights.tensors import SourceError

# Of transformers' PreTrainedConfig, in versions 4 and 5: names of files, classes and labels, what a
# call returns by default, what training does, and how `generate` samples.
COMMON = frozenset(
    """
    _name_or_path architectures auto_map dtype torch_dtype transformers_version tokenizer_class
    processor_class id2label label2id num_labels problem_type task_specific_params finetuning_task
    prefix
    output_attentions output_hidden_states output_past return_dict return_dict_in_generate
    output_scores use_cache torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing
    chunk_size_feed_forward attn_implementation _attn_implementation _attn_implementation_autoset
    initializer_range initializer_factor dropout_rate attention_dropout hidden_dropout_prob
    attention_probs_dropout_prob classifier_dropout classifier_dropout_rate ignore_index
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens cache_implementation eos_token_id sep_token_id
    """.split()
)
# Of an image processor: how it resizes and crops. Frames are resized by data/images.py instead.
_PREPROCESSING = frozenset(
    """
    size resample do_resize crop_size do_center_crop default_to_square do_convert_rgb do_pad pad_size
    image_processor_type feature_extractor_type processor_class image_seq_length image_seq_len
    data_format input_data_format device disable_grouping return_tensors _valid_processor_keys
    do_pan_and_scan pan_and_scan_min_crop_size pan_and_scan_max_num_crops
    pan_and_scan_min_ratio_to_activate
    """.split()
)
_NOTHING: tuple[Any, ...] = (None, False, '', [], {})


class Settings:
    """The fields of a config.json, or of a part of it; leaving the context checks that all were read.

        with Settings(config, IGNORED) as settings:
            width = settings.take('hidden_size')
            settings.must('rms_norm_eps', 1e-6)

    Args:
        values: the fields.
        ignored: fields that have no effect on what the model computes, beside `COMMON`.
        name: of the part, 'text_config'; '' for the whole.
    """

    def __init__(
        self, values: Mapping[str, Any], ignored: Collection[str] = (), name: str = ''
    ) -> None:
        self._values, self._prefix = values, f'{name}.' if name else ''
        self._read = {*COMMON, *ignored}
        # What a model of another make would have, in versions that write every default.
        self.must('pruned_heads', None, {})
        self.must('tie_encoder_decoder', None, False)
        self.must('add_cross_attention', None, False)
        self.must('cross_attention_hidden_size', None)
        self.must('quantization_config', None)

    def __enter__(self) -> Settings:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._finish()

    def take(self, name: str, *default: Any) -> Any:
        """The value of a field; `default` where it is missing.

        Raises:
            KeyError: it is missing and there is no default.
        """
        self._read.add(name)
        if name not in self._values and default:
            return default[0]
        if name not in self._values:
            raise KeyError(self._prefix + name)
        return self._values[name]

    def must(self, name: str, *known: Any) -> None:
        """Checks that a field, if present, has one of the values that the model here supports.

        Raises:
            SourceError: it has another.
        """
        value = self.take(name, known[0])
        if value not in known:
            options = ' or '.join(repr(option) for option in known if option is not None)
            raise SourceError(
                f'{self._prefix}{name} is {value!r}; the model here computes with {options or None}'
            )

    def part(self, name: str, ignored: Collection[str] = ()) -> Settings:
        """The fields of a part.

        Raises:
            KeyError: there is no such part.
        """
        return Settings(self.take(name), ignored, self._prefix + name)

    def _finish(self) -> None:
        """Raises on fields that were not read; warns of those that are off or empty."""
        unread = {name: x for name, x in self._values.items() if name not in self._read}
        for name in [name for name, value in unread.items() if value in _NOTHING]:
            logging.warning(
                '%s%s is %r: this field is not known here, and taken to be off',
                self._prefix,
                name,
                unread.pop(name),
            )
        if unread:
            name, value = next(iter(unread.items()))
            others = f', nor are {", ".join(list(unread)[1:])}' if len(unread) > 1 else ''
            raise SourceError(
                f'{self._prefix}{name} is {value!r}; this field is not known here{others}'
                f'{closest(name, self._read)} If it cannot change what the model computes, take it out '
                'of the file'
            )


def check_preprocessing(folder: epath.Path) -> None:
    """Checks that the image processor beside a checkpoint normalises frames as this project does.

    Args:
        folder: with preprocessor_config.json, or processor_config.json of later versions; or neither.

    Raises:
        SourceError: it does something else.
    """
    for file, part in (
        ('preprocessor_config.json', ''),
        ('processor_config.json', 'image_processor'),
    ):
        path = folder / file
        values = json.loads(path.read_text()) if path.exists() else {}
        values = values.get(part, {}) if part else values
        try:
            with Settings(values, _PREPROCESSING, part) as settings:
                settings.must('do_rescale', True, None)
                settings.must('rescale_factor', 1 / 255)
                settings.must('do_normalize', True, None)
                settings.must('image_mean', [0.5, 0.5, 0.5], None)
                settings.must('image_std', [0.5, 0.5, 0.5], None)
        except SourceError as error:
            raise SourceError(f'{path}: {error}') from None
