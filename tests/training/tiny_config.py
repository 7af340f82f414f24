"""configs/tabletop.py at a size that trains in seconds: get_config('web'), or 'robot' with
episodes.
"""

import pathlib
import runpy

_FILE = pathlib.Path(__file__).parents[2] / 'configs' / 'tabletop.py'


def get_config(arg: str = 'web'):
    """A locked config; of `robot`, the caller sets data.robot.tabletop.directory."""
    config = runpy.run_path(_FILE)['get_config']({'web': 'pretrain', 'robot': 'scratch'}[arg])
    with config.unlocked():
        # The project's own vocabulary, and what it has words for.
        config.tokenizer, config.init_from, config.init_parts = '', '', ()
        config.data.web = dict(web=dict(weight=1.0, seed=0, kinds=dict()))
        config.compile_cache = 'none'  # that of all tests, instead of one of the run's own
        config.update(dict(total_steps=24, batch_size=4, log_every=3, checkpoint_every=4))
        config.model = dict(
            name='pali',
            dtype='float32',
            vision=dict(width=16, depth=1, heads=2, mlp=32, patch=8),
            encoder=dict(width=32, depth=2, heads=2, head_dim=16, mlp=64),
            decoder=dict(width=32, depth=2, heads=2, head_dim=16, mlp=64),
        )
        config.data.update(dict(image_size=32, prompt_length=24, target_length=16, threads=1))
        if arg == 'robot':
            del config.data.robot['elsewhere']
        for robot in config.data.robot.values():
            robot.questions = robot.plan_share = 0.0
        # One CPU computes as several devices do.
        config.cpu_products = 'float32'
        config.optimizer.update(dict(name='adamw', warmup=4, lr=3e-3, schedule='constant'))
    return config.lock()
