"""How pixels are scaled before a tower sees them.

In float32: bfloat16 would round a grey level before it is scaled, and again behind that.

Axes: B images, H and W pixels, C channels.
"""

import jax
import jax.numpy as jnp

# Of ImageNet's pixels, RGB in [0, 1].
MEAN = 0.485, 0.456, 0.406
DEVIATION = 0.229, 0.224, 0.225


def signed(images: jax.Array) -> jax.Array:
    """Maps uint8 [B, H, W, C] to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def imagenet(images: jax.Array) -> jax.Array:
    """Maps uint8 [B, H, W, C] to float32, RGB by ImageNet's statistics, channels behind it in [0, 1]."""
    x, more = images.astype(jnp.float32) / 255, images.shape[-1] - len(MEAN)
    return (x - jnp.array(MEAN + (0.0,) * more)) / jnp.array(DEVIATION + (1.0,) * more)


SCALES = {'signed': signed, 'imagenet': imagenet}
