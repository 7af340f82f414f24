"""What the comparisons with transformers share."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

EOS = 1


def shapes_of(model, *inputs):
    """Shapes of a model's parameters by name, from shapes of its inputs."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    flat = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed), sep='/')
    return {name: x.shape for name, x in flat.items()}


def read(found):
    """Parameters by name from what a table found, read."""
    return {name: jnp.asarray(tensor.read()) for name, tensor in found.items()}


def variables(params):
    """What `model.apply` takes."""
    return {'params': flax.traverse_util.unflatten_dict(params, sep='/')}


def prefill(model, params, *inputs, length=32):
    """The cache for `length` tokens; one program, where `model.apply` compiles every operation."""
    return jax.jit(lambda *inputs: model.apply(*inputs, length, method='prefill'))(params, *inputs)


def greedy(model, params, cache, rows, length=32):
    """The likeliest tokens, int32 [rows, length], none of them the end token, by our cache."""
    step = jax.jit(lambda cache, token: model.apply(params, cache, token, method='step'))
    token, found = jnp.zeros(rows, jnp.int32), []
    for _ in range(length):
        logits, cache = step(cache, token)
        token = jnp.argmax(logits.at[:, EOS].set(-jnp.inf), axis=-1)
        found.append(token)
    return np.stack(found, 1)
