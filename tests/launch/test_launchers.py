"""The launchers: what they would run, and that bad arguments are refused before anything runs."""

import pathlib
import re
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from rt2_jax import exit_codes

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / 'launch').glob('*.sh'), ROOT / 'tests/launch/stand_in/gcloud'])
TRAIN = [
    '--',
    '--config=configs/rt2_pali_x_55b.py',
    '--config.mesh.fsdp=128',
    '--workdir=gs://b/r 2',
]
GKE = ['--name=rt2', '--image=i', '--accelerator=tpu-v5p-slice', '--topology=8x8x8', '--dry_run']
TPU = ['--name=rt2', '--zone=z', '--type=v5p-1024', '--dry_run']
# Reason and message that Kubernetes' Job controller writes into a failed Job's condition.
EXITED = (
    'PodFailurePolicy: Container job for pod d/p failed with exit code {} '
    'matching FailJob rule at index {}'
)
DISRUPTED = (
    'PodFailurePolicy: Pod d/p has condition DisruptionTarget matching FailJob rule at index 0'
)


def launch(name, *arguments, cwd=ROOT):
    return subprocess.run(
        ['bash', ROOT / f'launch/{name}.sh', *arguments], cwd=cwd, capture_output=True, text=True
    )


def printed(name, *arguments, cwd=ROOT):
    result = launch(name, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def filled(*arguments):
    return yaml.safe_load(printed('gke', *GKE, *arguments, *TRAIN))


def pod_of(jobset):
    return jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']


def check(program, *arguments):
    checker = shutil.which(program)
    assert checker, f'{program} of the test extra is not installed'
    result = subprocess.run([checker, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    check('shellcheck', '-x', script)


def test_hadolint_has_nothing_to_say():
    check('hadolint', 'launch/Dockerfile')


def test_all_launch_train_evaluate_and_collect_alike():
    modules = {
        'train': 'rt2_jax.train',
        'evaluate': 'rt2_jax.evaluate',
        'collect': 'rt2_jax.envs.tabletop.collect',
    }
    for job, module in modules.items():
        gke = ['--name=rt2', '--image=i', '--dry_run'] if job == 'collect' else GKE
        for name, arguments in (('slurm', ['--dry_run']), ('gke', gke), ('tpu_vm', TPU)):
            output = printed(name, *arguments, f'--job={job}', '--', '--output=x')
            assert re.search(rf'{re.escape(module)}\W+--output=x', output), output


def test_scripts_have_the_exit_codes_of_the_package():
    output = printed('slurm', '--dry_run', *TRAIN)
    assert f'\n{exit_codes.STOPPED}|143)\n' in output
    common = (ROOT / 'launch/common.sh').read_text()
    assert f'FINAL=({exit_codes.USER_ERROR} {exit_codes.USAGE})' in common


def test_tpu_vm_runs_on_every_host_of_every_slice():
    lines = printed('tpu_vm', *TPU, '--slices=2', *TRAIN).splitlines()
    assert '--node-count=2 --node-prefix=rt2' in lines[0] and 'v2-alpha-tpuv5' in lines[0]
    runs = [line for line in lines if 'rt2_jax.train' in line]
    assert {node for node in ('rt2-0', 'rt2-1') for line in runs if f'ssh {node} ' in line} == {
        'rt2-0',
        'rt2-1',
    }
    assert all('--worker=all' in line and 'RT2_JAX_CLUSTER=1' in line for line in runs)


def test_gke_fills_in_a_jobset():
    output = printed('gke', *GKE, '--slices=2', *TRAIN)
    assert '${' not in output
    slices = yaml.safe_load(output)['spec']['replicatedJobs'][0]
    pod = slices['template']['spec']
    assert slices['replicas'] == 2
    assert pod['parallelism'] == pod['completions'] == 8 * 8 * 8 // 4
    container = pod['template']['spec']['containers'][0]
    assert container['args'] == ['rt2_jax.train', *TRAIN[1:]]
    assert container['resources']['limits'] == {'google.com/tpu': '4'}


def test_gke_passes_on_what_a_cluster_asks_for():
    jobset = filled(
        '--service_account=trainer', '--pull_secret=registry', '--toleration=team=robots:NoSchedule',
        '--queue=tpus', '--priority_class=high', '--env=A=b "c"', '--env=B=', '--secret=wandb',
        '--spot', '--cpu=100', '--memory=300Gi', '--shm=32Gi', '--node_selector=disk=ssd',
    )  # fmt: skip
    assert jobset['metadata']['labels'] == {
        'kueue.x-k8s.io/queue-name': 'tpus',
        'kueue.x-k8s.io/priority-class': 'high',
    }
    pod = pod_of(jobset)
    container = pod['containers'][0]
    assert pod['serviceAccountName'] == 'trainer'
    assert pod['imagePullSecrets'] == [{'name': 'registry'}]
    assert [t['key'] for t in pod['tolerations']] == ['team', 'cloud.google.com/gke-spot']
    assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
    assert pod['nodeSelector']['disk'] == 'ssd'
    assert container['env'] == [{'name': 'A', 'value': 'b "c"'}, {'name': 'B', 'value': ''}]
    assert container['envFrom'] == [{'secretRef': {'name': 'wandb'}}]
    assert container['resources']['requests']['memory'] == '300Gi'
    assert pod['volumes'][0]['emptyDir'] == {'medium': 'Memory', 'sizeLimit': '32Gi'}
    assert pod_of(filled('--priority_class=high'))['priorityClassName'] == 'high'


@pytest.mark.parametrize(
    'message, action',
    [
        (EXITED.format(1, 2), 'FailJobSet'),
        (EXITED.format(75, 1), 'RestartJobSetAndIgnoreMaxRestarts'),
        (EXITED.format(143, 1), 'RestartJobSetAndIgnoreMaxRestarts'),
        (DISRUPTED, 'RestartJobSetAndIgnoreMaxRestarts'),
        ('BackoffLimitExceeded: Job has reached the specified backoff limit', None),
    ],
)
def test_what_restarts_a_jobset(message, action):
    """JobSet takes the first rule that fits; without one it restarts, up to maxRestarts."""
    reason, _, text = message.partition(': ')
    policy = filled('--restarts=7')['spec']['failurePolicy']
    assert policy['maxRestarts'] == 7
    fitting = [
        rule['action']
        for rule in policy['rules']
        if reason in rule['onJobFailureReasons']
        and any(re.search(p, text) for p in rule.get('onJobFailureMessagePatterns', ['']))
    ]
    assert fitting[:1] == ([action] if action else [])


@pytest.mark.parametrize('more', [[], ['--spot', '--queue=q', '--env=A=b', '--pull_secret=p']])
def test_the_jobset_is_one_by_its_schema_and_the_job_in_it_by_kubernetes(more):
    jobset = filled(*more)
    schema = yaml.safe_load((ROOT / 'tests/launch/jobset_schema.yaml').read_text())
    jsonschema.validate(jobset, schema)
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'slice'}}
    job['spec'] = jobset['spec']['replicatedJobs'][0]['template']['spec']
    kubernetes_validate.validate(job, '1.35', strict=True)
    job['spec']['template']['spec']['restartPolicies'] = 'Never'
    with pytest.raises(kubernetes_validate.ValidationError, match='restartPolicies'):
        kubernetes_validate.validate(job, '1.35', strict=True)


def test_slurm_has_a_process_for_each_gpu(tmp_path):
    output = printed(
        'slurm', '--nodes=4', '--gpus=8', '--cpus_per_task=12', '--mem=200G', '--account=a',
        '--qos=q', '--logs=logs', '--time=1-0', '--lead=80000', '--dry_run', *TRAIN, cwd=tmp_path,
    )  # fmt: skip
    for option in ('nodes=4', 'ntasks-per-node=8', 'cpus-per-task=12', 'mem=200G', 'account=a',
                   'qos=q', 'signal=TERM@80000', 'requeue', f'chdir="{ROOT}"',
                   f'output="{tmp_path}/logs/%x-%j.log"'):  # fmt: skip
        assert f'#SBATCH --{option}\n' in output
    assert 'srun --cpus-per-task=12 ' in output and '--workdir=gs://b/r\\ 2 ' in output
    assert f'{ROOT}/.venv/bin/python' in output
    assert subprocess.run(['bash', '-n'], input=output, text=True).returncode == 0


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['tpu_vm', '--name=a', '--zone=z', '--type=v9-8', *TRAIN], 'no runtime is known'),
        (['tpu_vm', '--nam=a'], 'unknown argument --nam; known: --commit'),
        (['tpu_vm', *TPU], 'flags of rt2_jax.train'),
        (['tpu_vm', *TPU, '--commit=nowhere', *TRAIN], '--commit=nowhere is no commit'),
        (['tpu_vm', *TPU, '--steps=instal', *TRAIN], 'unknown step instal'),
        (
            ['gke', '--name=a', '--image=i', '--accelerator=tpu-v5p', '--topology=8', *TRAIN],
            '8x8x8',
        ),
        (['gke', '--name=a', '--image=i', '--accelerator=v5p', *TRAIN], 'tpu-v5p-slice'),
        (['gke', *GKE, '--', '--config=configs/tabletopp.py'], 'there is no configs/tabletopp.py'),
        (['gke', *GKE, '--toleration=a', *TRAIN], '--toleration=a is not of the form'),
        (['gke', *GKE, '--job=collect', *TRAIN], 'takes no --accelerator'),
        (['gke', *GKE, '--spot=yes', *TRAIN], '--spot takes no value'),
        (['slurm', '--nodes=0', *TRAIN], '--nodes=0 is no number from 1'),
        (['slurm', '--nodes', '4', *TRAIN], '--nodes needs a value: --nodes=VALUE'),
        (['slurm', '--time=1', '--lead=30', *TRAIN], 'too short for --lead=30'),
        (['slurm', '--time=00:02:00', '--lead=61', *TRAIN], 'too short for --lead=61'),
        (['slurm', '--time=2:00', '--lead=61', *TRAIN], 'too short for --lead=61'),
        (['slurm', '--time=soon', *TRAIN], '--time=soon is not of the form'),
        (['slurm', '--job=trian', *TRAIN], 'known: train, evaluate, collect'),
        (['slurm', '--job=collect', '--nodes=2', *TRAIN], 'runs on one node'),
    ],
)
def test_bad_arguments(arguments, message):
    result = launch(*arguments)
    assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.parametrize('name', ['slurm', 'gke', 'tpu_vm'])
def test_help_is_the_head_of_the_script(name):
    assert '--job ' in printed(name, '--help')
