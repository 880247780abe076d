"""Every environment behind one `BatchedEnv`. Importing this room registers the native ones with Gymnasium, as `bellgrad/CartPole-v1`."""

from bellgrad.envs import registration as registration
